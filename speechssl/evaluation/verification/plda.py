"""Probabilistic LDA: the two-covariance model on embeddings of pseudo-speakers, and its likelihood
ratios.

Bruemmer and de Villiers 2010 (The speaker partitioning problem, Odyssey): a speaker is y ~ N(mu,
B), an utterance of it x | y ~ N(y, W). B and W are fitted by expectation maximisation; a trial's
score is the log likelihood ratio of one speaker against two. Embeddings are centred, scaled to unit
length (Garcia-Romero and Espy-Wilson 2011) and, if asked for, projected on principal directions and
by LDA first. The classes are clusters of training embeddings (`speechssl cluster`) unless somebody
gives labels.

W has D (D + 1) / 2 numbers, so PLDA wants some ten times as many embeddings as dimensions. With
fewer, W is shrunk towards a spherical one in each step (`shrinkage`); how far that helps stands in
evaluation/README.md.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, eigh

from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import BLOCK, Index, Matrix, unit

Square = NDArray[np.float64]

ENOUGH = 10
"""Embeddings a dimension below which a warning says that cosines may be better."""


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
        pca: principal directions kept before LDA; 0: all.
        shrinkage: weight of a spherical W, in embeddings a dimension, see `shrunk`.
        iterations: of expectation maximisation.

    Attributes:
        mean: (D,) of the training embeddings, subtracted before they are scaled to unit length.
        centre: (D,) mean of the scaled embeddings.
        basis: (D, d) directions in which W is the identity and B diagonal.
        between: (d,) the diagonal of B in these directions.
        name: what was fitted, for the results.

    Raises:
        UserError: fewer than two classes, none of them has two embeddings, fewer embeddings than
            dimensions, embeddings that span too few directions, or a setting out of its range.
    """

    def __init__(
        self,
        training: Matrix,
        classes: NDArray[np.int64],
        dim: int = 0,
        pca: int = 0,
        shrinkage: float = 0.1,
        iterations: int = 20,
    ) -> None:
        _check_settings(training.shape[1], dim, pca, shrinkage)
        _check_classes(classes)
        _check_amount(classes, pca or training.shape[1], shrinkage)
        self.mean = training.mean(0, dtype=np.float64).astype(np.float32)
        self.centre, statistics = _statistics(self.scale(training), classes)
        self.name = f"PLDA of {len(statistics.numbers)} classes"
        try:
            projection = self._projection(statistics, dim, pca, shrinkage)
            statistics = statistics.project(projection)
            within, between = initial_covariances(statistics, shrinkage)
            for _ in range(iterations):
                within, between = em_step(statistics, within, between, shrinkage)
            variances, basis = eigh(between, within)
        except LinAlgError as error:
            raise UserError(
                f"plda: the {len(training)} training embeddings do not vary within their classes in"
                f" every direction ({error}); raise --plda-shrinkage above {shrinkage:g}, or lower"
                " --plda-pca"
            ) from None
        self.between = variances.clip(min=0)
        self.basis = (projection @ basis).astype(np.float32)

    def _projection(self, statistics: Statistics, dim: int, pca: int, shrinkage: float) -> Square:
        """Return the directions (D, d) that are kept, and add them to the name."""
        projection: Square = np.eye(len(statistics.total))
        if pca:
            self.name += f", PCA {pca}"
            projection = _principal(statistics.total, pca)
        if dim:
            self.name += f", LDA {dim}"
            kept = statistics.project(projection)
            within, between = initial_covariances(kept, shrinkage)
            projection = projection @ _lda(within, between, dim)
        return projection

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


def _check_settings(size: int, dim: int, pca: int, shrinkage: float) -> None:
    """Refuse settings that are out of their range."""
    if not 0 <= pca <= size:
        raise UserError(
            f"plda: --plda-pca {pca} must be between 0 (all directions) and {size}, the size of the"
            " embeddings"
        )
    if not 0 <= dim <= (pca or size):
        raise UserError(
            f"plda: --plda-dim {dim} must be between 0 (no LDA) and {pca or size}, the"
            f" {'directions of --plda-pca' if pca else 'size of the embeddings'}"
        )
    if not 0 <= shrinkage < np.inf:
        raise UserError(f"plda: --plda-shrinkage {shrinkage:g} must be at least 0")


def _check_classes(classes: NDArray[np.int64]) -> None:
    """Refuse classes that tell nothing of B or of W."""
    counts = np.bincount(classes)
    used = int((counts > 0).sum())
    if used < 2 or counts.max() < 2:
        raise UserError(
            f"plda: {used} classes, the largest of {int(counts.max())} embeddings; at least two"
            " classes are needed, and one with two embeddings"
        )


def _check_amount(classes: NDArray[np.int64], size: int, shrinkage: float) -> None:
    """Refuse fewer embeddings than dimensions, and warn of fewer than ten times as many."""
    count = len(classes)
    used = len(np.unique(classes))
    if count < size:
        raise UserError(
            f"plda: {count} training embeddings for {size} dimensions; at least {size} are needed,"
            f" and some {ENOUGH * size} for PLDA to be better than cosines: leave --plda out, or"
            f" keep --plda-pca {max(1, count // ENOUGH)} directions"
        )
    if shrinkage == 0 and count - used < size:
        raise UserError(
            f"plda: {count} training embeddings of {used} classes vary in at most {count - used}"
            f" directions within a class, and there are {size}; give --plda-shrinkage above 0, or"
            f" --plda-pca {max(1, count - used)} at most"
        )
    if count < ENOUGH * size:
        warnings.warn(
            f"plda: {count} training embeddings for {size} dimensions; below some {ENOUGH * size}"
            " cosines may be better",
            stacklevel=4,
        )


def _statistics(rows: Matrix, classes: NDArray[np.int64]) -> tuple[NDArray[np.float64], Statistics]:
    """Return the mean (D,) of scaled embeddings (M, D), and their statistics about it."""
    centre = rows.mean(0, dtype=np.float64)
    centred = rows - centre
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) > 0])
    sums = np.add.reduceat(centred[order], starts)
    numbers = np.diff(np.r_[starts, len(rows)])
    return centre, Statistics(centred.T @ centred, sums, numbers)


def _principal(total: Square, count: int) -> Square:
    """Return the `count` directions (D, count) with the largest variance."""
    _, directions = eigh(total)
    chosen: Square = directions[:, ::-1][:, :count]
    return chosen


def _lda(within: Square, between: Square, dim: int) -> Square:
    """Return the `dim` directions (D, dim) with the largest ratio of B to W."""
    _, directions = eigh(between, within)
    chosen: Square = directions[:, ::-1][:, :dim]
    return chosen


def initial_covariances(statistics: Statistics, shrinkage: float = 0.0) -> tuple[Square, Square]:
    """Return W and B (D, D) to begin with: scatters around class means and of them, shrunk a
    little.

    Args:
        statistics: of the embeddings.
        shrinkage: see `shrunk`.
    """
    total, sums, numbers = statistics
    means = sums / numbers[:, None]
    within = (total - means.T @ sums) / max(1, int(numbers.sum()) - len(numbers))
    between = means.T @ means / len(numbers)
    ridge = 1e-4 * np.trace(total) / numbers.sum() / len(total) * np.eye(len(total))
    count = int(numbers.sum())
    return shrunk(within, shrinkage, count) + ridge, between + ridge


def shrunk(within: Square, shrinkage: float, count: int) -> Square:
    """Return the mean of W (D, D), of `count` embeddings, and of a spherical W of equal trace.

    The spherical one has the weight of `shrinkage` embeddings a dimension (the mode under an inverse
    Wishart prior), so it fades with more data.
    """
    size = len(within)
    weight = shrinkage * size
    spherical = np.trace(within) / size * np.eye(size)
    mixed: Square = (count * within + weight * spherical) / (count + weight)
    return mixed


def em_step(
    statistics: Statistics, within: Square, between: Square, shrinkage: float = 0.0
) -> tuple[Square, Square]:
    """Return W and B (D, D) after one step of expectation maximisation.

    It is taken in the basis where W is the identity and B diagonal.

    Args:
        statistics: of the embeddings.
        within: W (D, D).
        between: B (D, D).
        shrinkage: of the new W, see `shrunk`.
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
    count = int(numbers.sum())
    return shrunk(back.T @ within @ back, shrinkage, count), back.T @ between @ back
