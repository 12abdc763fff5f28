"""Probabilistic LDA: the two-covariance model on embeddings of pseudo-speakers, and its likelihood
ratios.

Bruemmer and de Villiers 2010 (The speaker partitioning problem, Odyssey): a speaker is y ~ N(mu,
B), an utterance of it x | y ~ N(y, W). B and W are fitted by expectation maximisation; a trial's
score is the log likelihood ratio of one speaker against two. Embeddings are centred, scaled to unit
length (Garcia-Romero and Espy-Wilson 2011) and, if asked for, projected by LDA first. The classes
are clusters of training embeddings (`speechssl cluster`) unless somebody gives labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import BLOCK, Index, Matrix, unit

Square = NDArray[np.float64]


class Statistics(NamedTuple):
    """What the fit needs to know of M embeddings of C classes, centred.

    Attributes:
        total: (D, D) sum of the outer products of all embeddings.
        sums: (C, D) sum of the embeddings of each class.
        numbers: (C,) embeddings in each class.
    """

    total: Square
    sums: Square
    numbers: NDArray[np.int64]

    def project(self, basis: Square) -> Statistics:
        """Return the statistics of the embeddings times `basis` (D, d)."""
        return Statistics(basis.T @ self.total @ basis, self.sums @ basis, self.numbers)


class PLDA:
    """PLDA fitted to training embeddings; call it with a matrix and the rows of trials to score.

    Args:
        training: (M, D).
        classes: (M,) int64, the class of each.
        dim: directions of LDA kept before; 0: no LDA.
        iterations: of expectation maximisation.

    Attributes:
        mean: (D,) of the training embeddings, subtracted before they are scaled to unit length.
        centre: (D,) mean of the scaled embeddings.
        basis: (D, d) directions in which W is the identity and B diagonal.
        between: (d,) the diagonal of B in these directions.
        name: what was fitted, for the results.

    Raises:
        UserError: fewer than two classes, none of them has two embeddings, or a bad `dim`.
    """

    def __init__(
        self, training: Matrix, classes: NDArray[np.int64], dim: int = 0, iterations: int = 20
    ) -> None:
        size = training.shape[1]
        _check(classes, dim, size)
        self.mean = training.mean(0, dtype=np.float64).astype(np.float32)
        self.centre, statistics = _statistics(self.scale(training), classes)
        within, between = initial_covariances(statistics)
        self.name = f"PLDA of {len(statistics.numbers)} classes"
        lda = None
        if dim and dim < size:
            lda = _lda(within, between, dim)
            statistics = statistics.project(lda)
            within = lda.T @ within @ lda
            between = lda.T @ between @ lda
        if dim:
            self.name += f", LDA {dim}"
        for _ in range(iterations):
            within, between = em_step(statistics, within, between)
        variances, basis = eigh(between, within)
        self.between = variances.clip(min=0)
        if lda is not None:
            basis = lda @ basis
        self.basis = basis.astype(np.float32)

    def scale(self, matrix: Matrix) -> Matrix:
        """Return `matrix` (N, D) with the training mean subtracted, at unit length."""
        return unit(matrix - self.mean)

    def __call__(self, matrix: Matrix, enrol: Index, test: Index) -> NDArray[np.float64]:
        """Return the log likelihood ratios (T,) of the rows `enrol` and `test` (T,) of `matrix`
        (N, D).
        """
        x = (self.scale(matrix) - self.centre.astype(np.float32)) @ self.basis
        total = self.between + 1
        determinant = total**2 - self.between**2
        product = (self.between / determinant).astype(np.float32)
        square = (0.5 * (total / determinant - 1 / total)).astype(np.float32)
        constant = 0.5 * (2 * np.log(total) - np.log(determinant)).sum()
        own = (x**2) @ square
        scores = np.empty(len(enrol))
        step = max(1, BLOCK // x.shape[1] // 4)
        for start in range(0, len(enrol), step):
            block = slice(start, start + step)
            scores[block] = np.einsum("td,td->t", x[enrol[block]] * product, x[test[block]])
        ratios: NDArray[np.float64] = scores - own[enrol] - own[test] + constant
        return ratios


def _check(classes: NDArray[np.int64], dim: int, size: int) -> None:
    counts = np.bincount(classes)
    used = int((counts > 0).sum())
    if used < 2 or counts.max() < 2:
        raise UserError(
            f"plda: {used} classes, the largest of {int(counts.max())} embeddings; at least two"
            " classes are needed, and one with two embeddings"
        )
    if not 0 <= dim <= size:
        raise UserError(
            f"plda: dim={dim} must be between 0 (no LDA) and {size}, the size of the embeddings"
        )


def _statistics(rows: Matrix, classes: NDArray[np.int64]) -> tuple[NDArray[np.float64], Statistics]:
    """Return the mean (D,) of scaled embeddings (M, D), and their statistics about it."""
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) > 0])
    sums = np.add.reduceat(rows[order].astype(np.float64), starts)
    numbers = np.diff(np.r_[starts, len(rows)])
    centre = sums.sum(0) / len(rows)
    sums -= numbers[:, None] * centre
    centred = rows - centre.astype(np.float32)
    total = centred.T.astype(np.float64) @ centred.astype(np.float64)
    return centre, Statistics(total, sums, numbers)


def _lda(within: Square, between: Square, dim: int) -> Square:
    """Return the `dim` directions (D, dim) with the largest ratio of B to W."""
    _, directions = eigh(between, within)
    chosen: Square = directions[:, ::-1][:, :dim]
    return chosen


def initial_covariances(statistics: Statistics) -> tuple[Square, Square]:
    """Return W and B (D, D) to begin with: scatters around class means and of them, shrunk a
    little.
    """
    total, sums, numbers = statistics
    means = sums / numbers[:, None]
    within = (total - means.T @ sums) / max(1, int(numbers.sum()) - len(numbers))
    between = means.T @ means / len(numbers)
    ridge = 1e-4 * np.trace(total) / numbers.sum() / len(total) * np.eye(len(total))
    return within + ridge, between + ridge


def em_step(statistics: Statistics, within: Square, between: Square) -> tuple[Square, Square]:
    """Return W and B (D, D) after one step of expectation maximisation.

    It is taken in the basis where W is the identity and B diagonal.
    """
    spread, basis = eigh(between, within)
    spread = spread.clip(min=1e-10)
    total, sums, numbers = statistics.project(basis)
    n = numbers[:, None].astype(np.float64)
    variance = spread / (1 + n * spread)  # (C, D), of y, given its n utterances
    y = variance * sums
    between = (y.T @ y + np.diag(variance.sum(0))) / len(numbers)
    within = total - y.T @ sums - sums.T @ y
    within = (within + (n * y).T @ y + np.diag((n * variance).sum(0))) / numbers.sum()
    back = np.linalg.inv(basis)
    return back.T @ within @ back, back.T @ between @ back
