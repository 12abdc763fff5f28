"""Scores of trials from embeddings: cosine, mean subtraction, AS-norm, calibration.

Arrays in, arrays out; a trial is a pair of row numbers. Cosines are a gather and a product in
blocks, never a loop over trials.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl import metrics
from speechssl.compat import faiss_if_installed
from speechssl.errors import UserError
from speechssl.progress import progress

Matrix = NDArray[np.float32]
Index = NDArray[np.int64]

LARGEST_SCORE = 1e100
"""A number from here on is no score: sums of squares of larger ones are infinite."""

SPREAD = 1e-6
"""Unit vectors closer together than this differ by float32 rounding only."""

BLOCK = 4_000_000
"""Numbers held at a time: 16 MB of float32."""

TILE = (512, 8192)
"""Rows and columns of cosines held at a time: about `BLOCK` numbers."""

_FAISS_ROWS = 8192  # rows searched at a time
_MOST_OF_FAISS = 1000  # neighbours; beyond, its heaps are slower than the tiles


def unit(embeddings: Matrix) -> Matrix:
    """Return the rows (N, D) scaled to length 1.

    Rows of zeros stay zero, so that their cosine with anything is 0.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    scaled: Matrix = np.zeros_like(embeddings)
    np.divide(embeddings, lengths, out=scaled, where=lengths > 0)
    return scaled


def subtract_mean(embeddings: Matrix, mean: ArrayLike) -> Matrix:
    """Return `embeddings` (N, D) less `mean`: a vector (D,), or the mean of *training* embeddings
    (M, D).
    """
    centre = np.asarray(mean, np.float32)
    if centre.ndim > 1:
        centre = centre.mean(0, dtype=np.float64).astype(np.float32)
    if centre.shape != embeddings.shape[1:]:
        raise UserError(
            f"the mean is of {centre.size} numbers, the embeddings of the test of"
            f" {embeddings.shape[1]}; use one model"
        )
    moved: Matrix = embeddings - centre
    return moved


def whitening(training: Matrix, shrinkage: float = 0.1) -> Matrix:
    """Return a matrix (D, D) under which unit vectors spread alike in all directions; fitted
    without labels.

    The covariance of the *training* embeddings (M, D), with their mean subtracted and at length 1,
    is shrunk towards its mean eigenvalue, C + shrinkage tr(C) / D I, and its inverse square root
    returned. A cosine is ruled by the few directions of large variance, which are often recording
    conditions; whitened, the others speak as well.
    """
    if len(training) < 2 or shrinkage < 0:
        raise UserError(
            f"whitening with {len(training)} embeddings and shrinkage {shrinkage}: needs at least 2"
            " embeddings and a shrinkage of at least 0"
        )
    rows = unit(subtract_mean(training, training)).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False).reshape(rows.shape[1], -1))
    values = values.clip(min=0) + max(shrinkage * values.mean(), 1e-12)
    matrix: Matrix = ((vectors / np.sqrt(values)) @ vectors.T).astype(np.float32)
    return matrix


def used_rows(count: int, enrol: Index, test: Index) -> Index:
    """Return which of `count` rows occur in the trials, ascending; without a sort of the
    trials.
    """
    used = np.zeros(count, dtype=bool)
    used[enrol] = True
    used[test] = True
    return np.flatnonzero(used)


def score_trials(embeddings: Matrix, enrol: Index, test: Index) -> NDArray[np.float64]:
    """Return the cosines (T,) of the rows `enrol` (T,) and `test` (T,) of `embeddings` (N, D).

    The memory needed does not grow with the trials.
    """
    rows = unit(embeddings)
    scores = np.empty(len(enrol))
    step = max(1, BLOCK // rows.shape[1] // 4)  # two gathered blocks that stay in the cache
    for start in range(0, len(enrol), step):
        block = slice(start, start + step)
        scores[block] = np.einsum("td,td->t", rows[enrol[block]], rows[test[block]])
    return scores


def cohort_statistics(embeddings: Matrix, cohort: Matrix, top: int = 300) -> tuple[Matrix, Matrix]:
    """Return the mean and standard deviation, each (N,), of the `top` highest cosines of each row
    (N, D) with `cohort` (C, D).
    """
    if cohort.ndim != 2 or cohort.shape[1] != embeddings.shape[1]:
        raise UserError(
            f"the cohort's shape is {cohort.shape}, the test's {embeddings.shape}; use one model"
        )
    if top < 2 or len(cohort) < 2:
        raise UserError(
            f"AS-norm with top {top} of {len(cohort)} cohort embeddings: it needs 2 or more of each"
        )
    mean = np.empty(len(embeddings), np.float32)
    deviation = np.empty(len(embeddings), np.float32)
    rows = unit(embeddings)
    others = unit(cohort)
    step = max(1, BLOCK // _cohort_width(len(others)))
    with progress(len(rows), "AS-norm", "embeddings") as done:
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            best = _highest_cosines(rows[block], others, top)
            mean[block] = best.mean(1)
            deviation[block] = best.std(1)
            done(len(best))
    return mean, np.maximum(deviation, SPREAD)


def _cohort_width(count: int) -> int:
    """Return how many of `count` cohort embeddings are compared at a time."""
    return min(count, max(1, BLOCK // TILE[0]))


def _highest_cosines(rows: Matrix, others: Matrix, top: int) -> Matrix:
    """Return the `top` highest cosines of each unit row with the others, in any order."""
    width = _cohort_width(len(others))
    best = rows[:, :0]
    for first in range(0, len(others), width):
        cosines = rows @ others[first : first + width].T
        best = np.hstack([best, cosines]) if best.size else cosines
        if best.shape[1] > top:
            best = np.partition(best, -top, axis=1)[:, -top:]
    return best


def nearest(
    embeddings: Matrix, others: Matrix, top: int, *, exclude_self: bool = False
) -> Iterator[tuple[int, Matrix, Index]]:
    """Find the `top` highest cosines of each row: with faiss where it is installed, else in tiles.

    Both are exact. faiss keeps the best of a product as it computes it; the tiles hold the best so
    far and one tile. Of equal cosines either may be taken.

    Args:
        embeddings: (N, D).
        others: (M, D).
        top: how many; fewer where there are no more.
        exclude_self: the two are the same embeddings, and a row is not its own neighbour.

    Yields:
        First row of a block, its cosines (n, top), highest first, and the rows of `others` that
        they belong to (n, top).
    """
    rows = unit(embeddings)
    columns = rows if exclude_self else unit(others)
    faiss = faiss_if_installed() if top <= _MOST_OF_FAISS else None
    if faiss is not None:
        yield from nearest_by_faiss(faiss, rows, columns, top, exclude_self)
    else:
        yield from nearest_by_tiles(rows, columns, top, exclude_self)


def nearest_by_faiss(
    faiss: Any, rows: Matrix, columns: Matrix, top: int, exclude_self: bool
) -> Iterator[tuple[int, Matrix, Index]]:
    """Do what `nearest` says for unit rows."""
    index = faiss.IndexFlatIP(columns.shape[1])
    index.add(columns)
    wanted = min(top + exclude_self, len(columns))
    for start in range(0, len(rows), _FAISS_ROWS):
        block = rows[start : start + _FAISS_ROWS]
        cosines, places = index.search(block, wanted)
        if exclude_self:
            is_other = places != np.arange(start, start + len(block))[:, None]
            # Of many equal embeddings the row itself may not be found: then the last one goes.
            is_other[is_other.all(1), -1] = False
            cosines = cosines[is_other].reshape(len(block), wanted - 1)
            places = places[is_other].reshape(len(block), wanted - 1)
        yield start, cosines, places


def nearest_by_tiles(
    rows: Matrix, columns: Matrix, top: int, exclude_self: bool
) -> Iterator[tuple[int, Matrix, Index]]:
    """Do what `nearest` says for unit rows."""
    known = len(columns) - exclude_self
    for start in range(0, len(rows), TILE[0]):
        block = rows[start : start + TILE[0]]
        own = np.arange(start, start + len(block))[:, None]
        best = np.empty((len(block), 0), np.float32)
        places = np.empty((len(block), 0), np.int64)
        for first in range(0, len(columns), TILE[1]):
            cosines = block @ columns[first : first + TILE[1]].T
            columns_here = np.arange(first, first + cosines.shape[1])
            tile_places = np.broadcast_to(columns_here, cosines.shape)
            if exclude_self:
                cosines[tile_places == own] = -np.inf
            candidates = np.hstack([best, cosines])
            candidate_places = np.hstack([places, tile_places])
            best, places = _highest(candidates, candidate_places, top)
        order = np.argsort(-best, axis=1, kind="stable")[:, :known]
        yield start, np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)


def _highest(values: Matrix, places: Index, top: int) -> tuple[Matrix, Index]:
    """Return the `top` highest values of each row, in any order, and their places."""
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
    """Return cosines (T,) after adaptive symmetric normalisation: Matejka et al. 2017, "AS-norm1".

    `((s - m_e) / d_e + (s - m_t) / d_t) / 2`, with m and d the mean and standard deviation of the
    `top` highest cosines of the enrolment (e) and of the test utterance (t) with the cohort. The
    deviation is the biased one (over `top`), as in wespeaker; speechbrain's over `top` - 1 divides
    all scores by sqrt(top / (top - 1)), 1.0017 for 300, which changes no error rate.

    Args:
        scores: (T,) cosines s.
        embeddings: (N, D).
        enrol: (T,) row of the enrolment of each trial.
        test: (T,) row of the test utterance.
        cohort: (C, D), which no test utterance belongs to.
        top: how many of the cohort.
    """
    used = used_rows(len(embeddings), enrol, test)
    mean = np.zeros(len(embeddings))
    deviation = np.ones(len(embeddings))
    mean[used], deviation[used] = cohort_statistics(embeddings[used], cohort, top)
    enrolled = (scores - mean[enrol]) / deviation[enrol]
    tested = (scores - mean[test]) / deviation[test]
    normalised: NDArray[np.float64] = 0.5 * (enrolled + tested)
    return normalised


def fit_calibration(
    scores: ArrayLike, target: ArrayLike, p_target: float = 0.05
) -> tuple[float, float]:
    """Return `(slope, offset)` such that `slope * score + offset` is a natural-log likelihood ratio.

    Args:
        scores: (T,) of calibration trials, which must not be those of the test.
        target: (T,), true for target trials.
        p_target: as for `fit_log_likelihood_ratio`.

    Raises:
        UserError: the trials cannot be measured, or a score is not finite.
    """
    column = np.asarray(scores, np.float64)[:, None]
    slopes, offset = fit_log_likelihood_ratio(column, target, p_target)
    return float(slopes[0]), offset


def fit_log_likelihood_ratio(
    measures: ArrayLike, target: ArrayLike, p_target: float = 0.05
) -> tuple[NDArray[np.float64], float]:
    """Return `(slopes, offset)` such that `measures @ slopes + offset` is a natural-log likelihood ratio.

    Logistic regression, with the classes weighted to a prior (Brummer and du Preez 2006).

    Args:
        measures: (T, K) of calibration trials, which must not be those of the test: the score
            first, then what else is known of a trial.
        target: (T,), true for target trials.
        p_target: the prior at which errors of the fit count.

    Raises:
        UserError: the trials cannot be measured, or a measure is not finite.
    """
    from sklearn.linear_model import LogisticRegression

    known = np.asarray(measures, np.float64)
    target = np.asarray(target, bool)
    metrics.det_curve(known[:, 0], target)  # raises where the trials cannot be measured
    if not (np.abs(known) < LARGEST_SCORE).all():
        raise UserError("calibration: scores are infinite, or far too large; score again")
    centre = known.mean(0)
    deviation = known.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    target_weight = p_target / target.mean()
    nontarget_weight = (1 - p_target) / (1 - target.mean())
    weights = np.where(target, target_weight, nontarget_weight)
    scaled = (known - centre) / scale
    model = LogisticRegression(C=1e4, max_iter=1000).fit(scaled, target, weights)
    slopes: NDArray[np.float64] = model.coef_[0] / scale
    prior = np.log(p_target / (1 - p_target))
    return slopes, float(model.intercept_[0] - slopes @ centre - prior)
