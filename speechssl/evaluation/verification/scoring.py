"""Scores of trials from embeddings: cosine, mean subtraction, AS-norm, calibration; arrays in,
    arrays out.

A trial is a pair of row numbers. Cosines are a gather and a product in blocks, never a loop over
trials.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl import metrics
from speechssl.errors import UserError

Matrix = NDArray[np.float32]
Index = NDArray[np.int64]
SPREAD = 1e-6  # unit vectors closer together than this differ by float32 rounding only
BLOCK = 4_000_000  # numbers held at a time: 16 MB of float32
TILE = (512, 8192)  # rows and columns of cosines held at a time: as many


def unit(embeddings: Matrix) -> Matrix:
    """Rows (N, D) scaled to length 1; rows of zeros stay zero, so their cosine with anything is
    0.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    scaled: Matrix = np.divide(
        embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0
    )
    return scaled


def subtract_mean(embeddings: Matrix, mean: ArrayLike) -> Matrix:
    """`embeddings` (N, D) less `mean`: a vector (D,), or *training* embeddings (M, D) for their
    mean.
    """
    mean = np.asarray(mean, np.float32)
    centre = mean if mean.ndim == 1 else mean.mean(0, dtype=np.float64).astype(np.float32)
    if centre.shape != embeddings.shape[1:]:
        raise UserError(
            f"the mean has {centre.size} numbers a vector, the test {embeddings.shape[1]}; use one"
            " model"
        )
    moved: Matrix = embeddings - centre
    return moved


def whitening(training: Matrix, shrinkage: float = 0.1) -> Matrix:
    """A matrix (D, D) under which unit vectors spread alike in all directions; fitted without
    labels.

    The covariance of the *training* embeddings (M, D), with their mean subtracted and at length 1,
    is shrunk towards its mean eigenvalue, C + shrinkage tr(C) / D I, and its inverse square root
    returned. A cosine is ruled by the few directions of large variance, which are often recording
    conditions; whitened, the others speak as well.
    """
    if len(training) < 2 or shrinkage < 0:
        raise UserError(
            f"whitening with {len(training)} embeddings, shrinkage {shrinkage}: needs 2 and at"
            " least 0"
        )
    rows = unit(subtract_mean(training, training)).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False).reshape(rows.shape[1], -1))
    values = values.clip(min=0) + max(shrinkage * values.mean(), 1e-12)
    matrix: Matrix = ((vectors / np.sqrt(values)) @ vectors.T).astype(np.float32)
    return matrix


def used_rows(count: int, enrol: Index, test: Index) -> Index:
    """Which of `count` rows occur in the trials, ascending; without a sort of the trials."""
    used = np.zeros(count, dtype=bool)
    used[enrol] = used[test] = True
    return np.flatnonzero(used)


def score_trials(embeddings: Matrix, enrol: Index, test: Index) -> NDArray[np.float64]:
    """Cosine (T,) of the rows `enrol` (T,) and `test` (T,) of `embeddings` (N, D); bounded
    memory.
    """
    rows = unit(embeddings)
    scores = np.empty(len(enrol))
    step = max(1, BLOCK // rows.shape[1] // 4)  # two gathered blocks that stay in the cache
    for start in range(0, len(enrol), step):
        block = slice(start, start + step)
        scores[block] = np.einsum("td,td->t", rows[enrol[block]], rows[test[block]])
    return scores


def cohort_statistics(embeddings: Matrix, cohort: Matrix, top: int = 300) -> tuple[Matrix, Matrix]:
    """Mean and deviation, each (N,), of the `top` highest cosines of the rows (N, D) with `cohort`
    (C, D).
    """
    if cohort.ndim != 2 or cohort.shape[1] != embeddings.shape[1]:
        raise UserError(
            f"the cohort's shape is {cohort.shape}, the test's {embeddings.shape}; use one model"
        )
    if top < 2 or len(cohort) < 2:
        raise UserError(
            f"AS-norm with top {top} of {len(cohort)} cohort embeddings: it needs 2 or more of each"
        )
    mean, deviation = np.empty(len(embeddings), np.float32), np.empty(len(embeddings), np.float32)
    rows, others = unit(embeddings), unit(cohort)
    width = min(len(others), max(1, BLOCK // TILE[0]))
    step = max(1, BLOCK // width)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        best = block[:, :0]
        for first in range(0, len(others), width):
            cosines = block @ others[first : first + width].T
            best = np.hstack([best, cosines]) if best.size else cosines
            best = np.partition(best, -top, axis=1)[:, -top:] if best.shape[1] > top else best
        mean[start : start + step], deviation[start : start + step] = best.mean(1), best.std(1)
    return mean, np.maximum(deviation, SPREAD)


def nearest(
    embeddings: Matrix, others: Matrix, top: int, *, but_itself: bool = False
) -> Iterator[tuple[int, Matrix, Index]]:
    """The `top` highest cosines of each row (N, D) with `others` (M, D), by matrix product in
    tiles.

    Only the best so far and one tile are held. `but_itself`: the two are the same, and a row is no
    neighbour of its own.

    Yields:
        First row of a block, its cosines (n, top), highest first, and whose they are (n, top);
        fewer than `top` where there are no more.
    """
    rows, columns = unit(embeddings), unit(others)
    for start in range(0, len(rows), TILE[0]):
        block = rows[start : start + TILE[0]]
        best, whose = np.empty((len(block), 0), np.float32), np.empty((len(block), 0), np.int64)
        for first in range(0, len(columns), TILE[1]):
            cosines = block @ columns[first : first + TILE[1]].T
            place = np.broadcast_to(np.arange(first, first + cosines.shape[1]), cosines.shape)
            if but_itself:
                cosines[place == np.arange(start, start + len(block))[:, None]] = -np.inf
            best, whose = _highest(np.hstack([best, cosines]), np.hstack([whose, place]), top)
        order = np.argsort(-best, axis=1, kind="stable")
        best, whose = np.take_along_axis(best, order, 1), np.take_along_axis(whose, order, 1)
        known = len(columns) - but_itself
        yield start, best[:, :known], whose[:, :known]


def _highest(values: Matrix, places: Index, top: int) -> tuple[Matrix, Index]:
    """The `top` highest of each row, in any order."""
    if values.shape[1] <= top:
        return values, places
    chosen = np.argpartition(values, values.shape[1] - top, axis=1)[:, -top:]
    return np.take_along_axis(values, chosen, 1), np.take_along_axis(places, chosen, 1)


def as_norm(
    scores: NDArray[np.float64],
    embeddings: Matrix,
    enrol: Index,
    test: Index,
    cohort: Matrix,
    top: int = 300,
) -> NDArray[np.float64]:
    """Adaptive symmetric normalisation of cosines (T,): Matejka et al. 2017, "AS-norm1".

    `((s - m_e) / d_e + (s - m_t) / d_t) / 2`, with m and d the mean and standard deviation of the
    `top` highest cosines of the enrolment (e) and of the test utterance (t) with the cohort (C, D),
    which no test utterance belongs to.
    """
    used = used_rows(len(embeddings), enrol, test)
    mean, deviation = np.zeros(len(embeddings)), np.ones(len(embeddings))
    mean[used], deviation[used] = cohort_statistics(embeddings[used], cohort, top)
    enrolled, tested = (
        (scores - mean[enrol]) / deviation[enrol],
        (scores - mean[test]) / deviation[test],
    )
    normalised: NDArray[np.float64] = 0.5 * (enrolled + tested)
    return normalised


def fit_calibration(
    scores: ArrayLike, target: ArrayLike, p_target: float = 0.05
) -> tuple[float, float]:
    """`(slope, offset)` such that `slope * score + offset` is a natural-log likelihood ratio.

    Logistic regression on the scores (T,) of calibration trials, with the classes weighted to the
    prior `p_target` (Brummer and du Preez 2006). The trials must not be those of the test.
    """
    from sklearn.linear_model import LogisticRegression

    scores, target = np.asarray(scores, np.float64), np.asarray(target, bool)
    metrics.det_curve(scores, target)
    centre, scale = scores.mean(), scores.std() or 1.0
    weights = np.where(target, p_target / target.mean(), (1 - p_target) / (1 - target.mean()))
    model = LogisticRegression(C=1e4, max_iter=1000).fit(
        (scores[:, None] - centre) / scale, target, weights
    )
    slope = float(model.coef_[0, 0] / scale)
    return slope, float(model.intercept_[0] - slope * centre - np.log(p_target / (1 - p_target)))
