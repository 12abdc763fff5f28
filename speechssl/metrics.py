"""Figures of merit, in numpy: verification errors, classification scores, cluster agreement,
    intervals.

Verification follows the field's conventions: a trial is accepted when `score >= threshold`; the
false positive rate (fpr) is the share of non-target trials accepted, the false negative rate (fnr)
the share of target trials rejected. Trials with the same score are one step of the curve, whatever
their order in the list. Between steps the curve is interpolated linearly (not replaced by its
convex hull, whose EER is never higher and reads better than the scores are).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.errors import UserError

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def _trials(scores: ArrayLike, target: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Checked arrays: one finite-or-infinite score a trial, and at least one trial of each kind."""
    score_array, target_array = np.asarray(scores, np.float64), np.asarray(target, bool)
    if score_array.ndim != 1 or score_array.shape != target_array.shape:
        raise UserError(
            f"{score_array.shape} scores for {target_array.shape} trial labels: give one score a"
            " trial"
        )
    if np.isnan(score_array).any():
        raise UserError(
            f"{int(np.isnan(score_array).sum())} of {len(score_array)} scores are NaN: check the"
            " embeddings"
        )
    targets = int(target_array.sum())
    if targets in (0, len(target_array)):
        raise UserError(
            f"{targets} target trials of {len(target_array)}: both target and non-target trials are"
            " needed"
        )
    return score_array, target_array


def _group_starts(sorted_scores: Floats) -> NDArray[np.intp]:
    """Where each run of equal scores begins, and the length of the list at the end."""
    steps = np.flatnonzero(sorted_scores[1:] != sorted_scores[:-1]) + 1
    return np.concatenate([[0], steps, [len(sorted_scores)]])


def _rates(
    weights: NDArray[Any], target: NDArray[np.bool_], starts: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """(fpr, fnr) at each start of sorted, weighted trials; NaN where a kind of trial has no weight
    at all.
    """
    missed = np.concatenate([[0], np.cumsum(weights * target)])
    rejected = np.concatenate([[0], np.cumsum(weights)]) - missed
    if missed[-1] <= 0 or rejected[-1] <= 0:
        return np.full(len(starts), np.nan), np.full(len(starts), np.nan)
    return (rejected[-1] - rejected[starts]) / rejected[-1], missed[starts] / missed[-1]


def det_curve(
    scores: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Floats, Floats, Floats]:
    """Error rates at every threshold, in one pass over the sorted scores.

    Args: `scores` (T,), `target` (T,) true for target trials, `weights` (T,) >= 0 or None for one
    each. Returns `(fpr, fnr, thresholds)`, each (U + 1,) for U distinct scores; thresholds ascend
    and end with infinity, so the curve runs from (fpr 1, fnr 0) to (0, 1). Raises UserError on NaN
    or when a kind of trial is missing.
    """
    scores, target = _trials(scores, target)
    order = np.argsort(scores)
    ordered = scores[order]
    starts = _group_starts(ordered)
    sorted_weights = (
        np.ones(len(order), np.int64) if weights is None else np.asarray(weights)[order]
    )
    fpr, fnr = _rates(sorted_weights, target[order], starts)
    return fpr, fnr, np.append(ordered[starts[:-1]], np.inf)


def _crossing(fpr: Floats, fnr: Floats) -> tuple[float, int]:
    """Where fpr and fnr meet: the interpolated rate (0 to 1), and the operating point nearest to
    it.
    """
    after = int(np.searchsorted(fnr - fpr, 0.0))
    before = max(after - 1, 0)
    gap_before, gap_after = fpr[before] - fnr[before], fnr[after] - fpr[after]
    share = gap_before / (gap_before + gap_after) if before != after else 0.0
    rate = fpr[before] + share * (fpr[after] - fpr[before])
    nearest = before if gap_before <= gap_after or after == len(fpr) - 1 else after
    return float(rate), nearest


def eer_point(scores: ArrayLike, target: ArrayLike) -> tuple[float, float]:
    """`(eer, threshold)`: the equal error rate in percent and the threshold of the nearest
    operating point.

    When all scores are equal the curve is one straight line and the EER is 50 %, with a
    RuntimeWarning.
    """
    fpr, fnr, thresholds = det_curve(scores, target)
    if len(thresholds) == 2:
        warnings.warn(
            "all scores are equal (collapsed embeddings?): the EER is 50 %",
            RuntimeWarning,
            stacklevel=2,
        )
    rate, nearest = _crossing(fpr, fnr)
    return 100.0 * rate, float(thresholds[nearest])


def eer(scores: ArrayLike, target: ArrayLike) -> float:
    """Equal error rate in percent; see `eer_point`."""
    return eer_point(scores, target)[0]


def _costs(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    """The weights of fnr and fpr in the normalised detection cost."""
    if not 0.0 < p_target < 1.0 or c_miss <= 0 or c_fa <= 0:
        raise UserError(
            f"p_target {p_target}, c_miss {c_miss}, c_fa {c_fa}: need 0 < p_target < 1 and positive"
            " costs"
        )
    miss, false_alarm = c_miss * p_target, c_fa * (1.0 - p_target)
    return miss / min(miss, false_alarm), false_alarm / min(miss, false_alarm)


def min_dcf(
    scores: ArrayLike, target: ArrayLike, p_target: float, c_miss: float = 1, c_fa: float = 1
) -> float:
    """Smallest detection cost over all thresholds, over that of the better constant decision (at
    most 1).

    NIST SRE: `(c_miss p fnr + c_fa (1 - p) fpr) / min(c_miss p, c_fa (1 - p))`.
    """
    miss, false_alarm = _costs(p_target, c_miss, c_fa)
    fpr, fnr, _ = det_curve(scores, target)
    return float(np.min(miss * fnr + false_alarm * fpr))


def act_dcf(
    llr: ArrayLike, target: ArrayLike, p_target: float, c_miss: float = 1, c_fa: float = 1
) -> float:
    """Normalised detection cost at Bayes' threshold `log(c_fa (1 - p) / (c_miss p))`.

    `llr` (T,) must be natural-log likelihood ratios, that is, calibrated scores: on cosines it
    means nothing.
    """
    miss, false_alarm = _costs(p_target, c_miss, c_fa)
    llr, target = _trials(llr, target)
    accepted = llr >= np.log(false_alarm / miss)
    return float(miss * np.mean(~accepted[target]) + false_alarm * np.mean(accepted[~target]))


def cllr(llr: ArrayLike, target: ArrayLike) -> float:
    """Log-likelihood-ratio cost in bits (Brummer and du Preez 2006); 1 for scores that say nothing.

    `llr` (T,): calibrated scores, as for `act_dcf`.
    """
    llr, target = _trials(llr, target)
    target_cost, other_cost = (
        np.logaddexp(0, -llr[target]).mean(),
        np.logaddexp(0, llr[~target]).mean(),
    )
    return float((target_cost + other_cost) / (2 * np.log(2)))


def contingency(
    truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[Any], Floats]:
    """`(labels (C,), counts (C, C))`: rows are true labels, columns predicted ones."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise UserError(
            f"{predicted.shape} predictions for {truth.shape} labels: give one each, and at least"
            " one"
        )
    labels, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    cells = codes[: len(truth)] * len(labels) + codes[len(truth) :]
    counts = np.bincount(
        cells, None if weights is None else np.asarray(weights), minlength=len(labels) ** 2
    )
    return labels, counts.reshape(len(labels), len(labels)).astype(np.float64)


def micro_f1(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Micro-averaged F1 (0 to 1): with one label an item, the accuracy."""
    counts = contingency(truth, predicted, weights)[1]
    return float(np.trace(counts) / counts.sum())


def macro_f1(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean over classes of F1 (0 to 1); a class is any label that is true or predicted
    somewhere.
    """
    counts = contingency(truth, predicted, weights)[1]
    support = counts.sum(0) + counts.sum(1)
    return float(np.mean(2 * np.diag(counts)[support > 0] / support[support > 0]))


def uar(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Unweighted average recall (0 to 1) over the classes in `truth`; the balanced accuracy."""
    counts = contingency(truth, predicted, weights)[1]
    support = counts.sum(1)
    return float(np.mean(np.diag(counts)[support > 0] / support[support > 0]))


def _joint(truth: ArrayLike, clusters: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Counts of the (class, cluster) pairs, of classes, of clusters, and of the commonest class in
    each.

    Only occupied cells are kept: thousands of speakers by thousands of clusters would not fit as a
        table.
    """
    truth, clusters = np.asarray(truth), np.asarray(clusters)
    if truth.ndim != 1 or truth.shape != clusters.shape or not len(truth):
        raise UserError(
            f"{clusters.shape} clusters for {truth.shape} labels: give one each, and at least one"
        )
    rows, columns = (
        np.unique(truth, return_inverse=True)[1],
        np.unique(clusters, return_inverse=True)[1],
    )
    width = int(columns.max()) + 1
    cells, counts = np.unique(rows * width + columns, return_counts=True)
    largest = np.zeros(width)
    np.maximum.at(largest, cells % width, counts)
    return (
        counts.astype(float),
        np.bincount(rows).astype(float),
        np.bincount(columns).astype(float),
        largest,
    )


def purity(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Share of items (0 to 1) that belong to the commonest class of their cluster."""
    cells, _, _, largest = _joint(truth, clusters)
    return float(largest.sum() / cells.sum())


def nmi(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Mutual information over the mean of the two entropies (0 to 1); 1 when both have a single
    label.
    """

    def entropy(counts: Floats) -> float:
        shares = counts[counts > 0] / counts.sum()
        return float(-np.sum(shares * np.log(shares)))

    cells, rows, columns, _ = _joint(truth, clusters)
    both = entropy(rows) + entropy(columns)
    return 1.0 if both == 0.0 else max(0.0, 2 * (both - entropy(cells)) / both)


def ari(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985): 1 for equal partitions, 0 on average for random
    ones.
    """

    def pairs(counts: Floats) -> float:
        return float(np.sum(counts * (counts - 1) / 2))

    cells, rows, columns, _ = _joint(truth, clusters)
    together, by_class, by_cluster = pairs(cells), pairs(rows), pairs(columns)
    expected = by_class * by_cluster / max(pairs(cells.sum(keepdims=True)), 1.0)
    largest = (by_class + by_cluster) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def _quantiles(values: Floats, confidence: float) -> Interval | None:
    kept = values[~np.isnan(values)]
    if not len(kept):
        return None
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _multiplicities(clusters: int, seed: int) -> Callable[[], NDArray[np.int64]]:
    """A draw says how often each cluster occurs in a resample, with replacement, of as many
    clusters.
    """
    generator = np.random.default_rng(seed)
    return lambda: np.bincount(generator.integers(0, clusters, clusters), minlength=clusters)


def format_interval(interval: Sequence[float] | None, spec: str = ".2f") -> str:
    """Return ` [low, high]` with both ends in the format `spec`, or nothing where there is none."""
    if interval is None:
        return ""
    low, high = interval
    return f" [{low:{spec}}, {high:{spec}}]"


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    clusters: ArrayLike,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Percentile interval of `statistic(weights (N,))` when whole clusters (speakers) are
    resampled.

    `clusters` (N,): the speaker of each item. An item's weight is how often its speaker was drawn,
    so for instance `bootstrap_interval(lambda w: uar(truth, predicted, w), speakers)`. None when
    there are fewer than two clusters.
    """
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return None
    draw = _multiplicities(len(names), seed)
    return _quantiles(np.array([statistic(draw()[codes]) for _ in range(replicates)]), confidence)


def bootstrap_trials(
    scores: ArrayLike,
    target: ArrayLike,
    enrol_speaker: ArrayLike,
    test_speaker: ArrayLike,
    *,
    p_targets: Sequence[float] = (0.01, 0.05),
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Percentile intervals of `eer` (percent) and `min_dcf_<p>` over speakers.

    Speakers are resampled with replacement. A trial between two speakers weighs the product of how
    often each was drawn (both had to be there), one within a speaker weighs that number once: the
    pigeonhole bootstrap (Owen 2007), which is somewhat conservative for the non-target trials. The
    scores are sorted once; a replicate is a weighted cumulative sum. Resamples without targets or
    without non-targets are left out. None when there are fewer than two speakers.
    """
    scores, target = _trials(scores, target)
    keys = ["eer", *(f"min_dcf_{p:g}" for p in p_targets)]
    sides = np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)])
    names, codes = np.unique(sides, return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(keys)
    order = np.argsort(scores)
    target, left, right = target[order], codes[: len(order)][order], codes[len(order) :][order]
    between = left != right
    starts = _corners(target, _group_starts(scores[order]))
    costs = [_costs(p, 1.0, 1.0) for p in p_targets]
    draw = _multiplicities(len(names), seed)
    values = np.full((replicates, len(keys)), np.nan)
    for row in values:
        times = draw()
        fpr, fnr = _rates(times[left] * np.where(between, times[right], 1), target, starts)
        if not np.isnan(fpr[0]):
            row[0] = 100.0 * _crossing(fpr, fnr)[0]
            row[1:] = [np.min(miss * fnr + false_alarm * fpr) for miss, false_alarm in costs]
    return {key: _quantiles(column, confidence) for key, column in zip(keys, values.T, strict=True)}


def _corners(target: NDArray[np.bool_], starts: NDArray[np.intp]) -> NDArray[np.intp]:
    """The starts where the curve can turn: between two groups of only targets (or none) it runs
    straight.
    """
    share = np.add.reduceat(target, starts[:-1], dtype=np.float64) / np.diff(starts)
    straight = (share[1:] == share[:-1]) & ((share[1:] == 0) | (share[1:] == 1))
    kept: NDArray[np.intp] = starts[np.concatenate([[True], ~straight, [True]])]
    return kept
