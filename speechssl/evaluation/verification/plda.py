"""Probabilistic LDA: the two-covariance model on embeddings of pseudo-speakers, and its likelihood
    ratios.

Bruemmer and de Villiers 2010 (The speaker partitioning problem, Odyssey): a speaker is y ~ N(mu,
B), an utterance of it x | y ~ N(y, W). B and W are fitted by expectation maximisation; a trial's
score is the log likelihood ratio of one speaker against two. Embeddings are centred, scaled to unit
length (Garcia-Romero and Espy-Wilson 2011) and, if asked for, projected by LDA first. The classes
are clusters of training embeddings (`speechssl cluster`) unless somebody gives labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import BLOCK, Index, Matrix, unit

Square = NDArray[np.float64]


class PLDA:
    """Fitted to training embeddings; called with a matrix (N, D) and the rows of trials, it scores
    them.

    Args:
        training: (M, D). classes: (M,) int64. dim: LDA directions kept before; 0: all.
        iterations: of expectation maximisation.

    Attributes:
        between: (d,) variance of speakers in the directions of ``basis`` (D, d), where W is the
            identity.

    Raises:
        UserError: fewer than two classes, or none of them has two embeddings.
    """

    def __init__(
        self, training: Matrix, classes: NDArray[np.int64], dim: int = 0, iterations: int = 20
    ) -> None:
        counts = np.bincount(classes)
        if (counts > 0).sum() < 2 or counts.max() < 2:
            raise UserError(
                f"plda: {int((counts > 0).sum())} classes, the largest of {int(counts.max())}: it"
                " needs two classes, and utterances that share one"
            )
        size = training.shape[1]
        if not 0 <= dim <= size:
            raise UserError(
                f"plda: dim={dim} of embeddings of {size} numbers; give 0 (all) to {size}"
            )
        self.mean = training.mean(0, dtype=np.float64).astype(np.float32)
        rows = self._scaled(training)
        order = np.argsort(classes, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) > 0])
        sums = np.add.reduceat(rows[order].astype(np.float64), starts)
        numbers = np.diff(np.r_[starts, len(rows)])
        self.centre = sums.sum(0) / len(rows)
        sums -= numbers[:, None] * self.centre
        centred = rows - self.centre.astype(np.float32)
        total = centred.T.astype(np.float64) @ centred.astype(np.float64)
        within, between = _moments(total, sums, numbers)
        if dim and dim < size:
            _, directions = eigh(between, within)
            lda = directions[:, ::-1][:, :dim]
            total, sums = lda.T @ total @ lda, sums @ lda
            within, between = lda.T @ within @ lda, lda.T @ between @ lda
        for _ in range(iterations):
            within, between = _maximise(total, sums, numbers, within, between)
        self.between, basis = eigh(between, within)
        self.between = self.between.clip(min=0)
        self.basis = (lda @ basis if dim and dim < size else basis).astype(np.float32)
        self.name = f"PLDA of {len(numbers)} classes" + (f", LDA {dim}" if dim else "")

    def _scaled(self, matrix: Matrix) -> Matrix:
        return unit(matrix - self.mean)

    def __call__(self, matrix: Matrix, enrol: Index, test: Index) -> NDArray[np.float64]:
        """Log likelihood ratios (T,) of the rows ``enrol`` and ``test`` (T,) of ``matrix`` (N,
        D).
        """
        x = (self._scaled(matrix) - self.centre.astype(np.float32)) @ self.basis
        total, determinant = self.between + 1, (self.between + 1) ** 2 - self.between**2
        product = (self.between / determinant).astype(np.float32)
        square = (0.5 * (total / determinant - 1 / total)).astype(np.float32)
        constant = 0.5 * (2 * np.log(total) - np.log(determinant)).sum()
        own = (x**2) @ square
        scores = np.empty(len(enrol))
        step = max(1, BLOCK // x.shape[1] // 4)
        for start in range(0, len(enrol), step):
            block = slice(start, start + step)
            scores[block] = np.einsum("td,td->t", x[enrol[block]] * product, x[test[block]])
        return scores - own[enrol] - own[test] + constant


def _moments(total: Square, sums: Square, numbers: NDArray[np.int64]) -> tuple[Square, Square]:
    """W and B to begin with, from scatters (D, D) around class means and of them; both shrunk a
    little.
    """
    means = sums / numbers[:, None]
    within = (total - means.T @ sums) / max(1, int(numbers.sum()) - len(numbers))
    between = means.T @ means / len(numbers)
    ridge = 1e-4 * np.trace(total) / numbers.sum() / len(total) * np.eye(len(total))
    return within + ridge, between + ridge


def _maximise(
    total: Square, sums: Square, numbers: NDArray[np.int64], within: Square, between: Square
) -> tuple[Square, Square]:
    """One step of expectation maximisation, in the basis where W = I and B is diagonal."""
    spread, basis = eigh(between, within)
    spread = spread.clip(min=1e-10)
    s = sums @ basis  # (C, D)
    n = numbers[:, None].astype(np.float64)
    variance = spread / (1 + n * spread)  # of y, given its n utterances
    y = variance * s
    between = (y.T @ y + np.diag(variance.sum(0))) / len(numbers)
    within = basis.T @ total @ basis - y.T @ s - s.T @ y
    within = (within + (n * y).T @ y + np.diag((n * variance).sum(0))) / numbers.sum()
    back = np.linalg.inv(basis)
    return back.T @ within @ back, back.T @ between @ back
