"""Figures of merit, in numpy: verification errors, classification scores, cluster agreement, and
bootstrap intervals.

Verification follows the field's conventions: a trial is accepted when `score >= threshold`; the
false positive rate (fpr) is the share of non-target trials accepted, the false negative rate (fnr)
the share of target trials rejected. Trials with the same score are one step of the curve, whatever
their order in the list. Between steps the curve is interpolated linearly (not replaced by its
convex hull, whose EER is never higher and reads better than the scores are).

Which figures a verification run reports is not decided here but in the table of
`evaluation.verification.measures`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.errors import UserError
from speechssl.progress import counted

Floats = NDArray[np.float64]
Interval = tuple[float, float]
CurveFigure = Callable[[Floats, Floats], float]
"""A number computed from an error curve: fpr (U + 1,) and fnr (U + 1,), as `det_curve` returns."""


def _checked_trials(scores: ArrayLike, target: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return scores (T,) and targets (T,) as arrays; both kinds of trial occur, no score is NaN."""
    score_array = np.asarray(scores, np.float64)
    target_array = np.asarray(target, bool)
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
    """Return where each run of equal scores begins, and the length of the list at the end."""
    steps = np.flatnonzero(sorted_scores[1:] != sorted_scores[:-1]) + 1
    return np.concatenate([[0], steps, [len(sorted_scores)]])


def _rates(
    weights: NDArray[Any], target: NDArray[np.bool_], starts: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Return (fpr, fnr) at each start of sorted, weighted trials.

    Both are NaN if all target trials, or all non-target trials, weigh nothing.
    """
    targets_below = np.concatenate([[0], np.cumsum(weights * target)])
    nontargets_below = np.concatenate([[0], np.cumsum(weights)]) - targets_below
    targets = targets_below[-1]
    nontargets = nontargets_below[-1]
    if targets <= 0 or nontargets <= 0:
        undefined = np.full(len(starts), np.nan)
        return undefined, undefined
    fpr = (nontargets - nontargets_below[starts]) / nontargets
    fnr = targets_below[starts] / targets
    return fpr, fnr


def det_curve(
    scores: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Floats, Floats, Floats]:
    """Compute the error rates at every threshold, in one pass over the sorted scores.

    Args:
        scores: (T,), higher for trials that look like targets.
        target: (T,), true for target trials.
        weights: (T,), at least 0; None: each trial counts once.

    Returns:
        `(fpr, fnr, thresholds)`, each (U + 1,) for U distinct scores. Thresholds ascend and end
        with infinity, so the curve runs from (fpr 1, fnr 0) to (0, 1).

    Raises:
        UserError: a score is NaN, or a kind of trial is missing.
    """
    scores, target = _checked_trials(scores, target)
    order = np.argsort(scores)
    sorted_scores = scores[order]
    starts = _group_starts(sorted_scores)
    if weights is None:
        weights = np.ones(len(order), np.int64)
    fpr, fnr = _rates(np.asarray(weights)[order], target[order], starts)
    thresholds = np.append(sorted_scores[starts[:-1]], np.inf)
    return fpr, fnr, thresholds


def _crossing(fpr: Floats, fnr: Floats) -> tuple[float, int]:
    """Return where fpr and fnr meet: the interpolated rate (0 to 1), and the index of the operating
    point nearest to it.
    """
    after = int(np.searchsorted(fnr - fpr, 0.0))
    before = max(after - 1, 0)
    gap_before = fpr[before] - fnr[before]
    gap_after = fnr[after] - fpr[after]
    share = 0.0
    if before != after:
        share = gap_before / (gap_before + gap_after)
    rate = fpr[before] + share * (fpr[after] - fpr[before])
    # The last threshold is infinite: it accepts nothing and serves nobody.
    after_is_infinite = after == len(fpr) - 1
    nearest = before if gap_before <= gap_after or after_is_infinite else after
    return float(rate), nearest


def curve_eer(fpr: Floats, fnr: Floats) -> float:
    """Return the equal error rate, in percent, of an error curve: fpr and fnr (U + 1,)."""
    return 100.0 * _crossing(fpr, fnr)[0]


def curve_min_dcf(
    fpr: Floats, fnr: Floats, p_target: float, c_miss: float = 1, c_fa: float = 1
) -> float:
    """Return the smallest detection cost on an error curve, fpr and fnr (U + 1,); see `min_dcf`."""
    miss, false_alarm = _costs(p_target, c_miss, c_fa)
    return float(np.min(miss * fnr + false_alarm * fpr))


def eer_point(scores: ArrayLike, target: ArrayLike) -> tuple[float, float]:
    """Return `(eer, threshold)`: the equal error rate in percent, and the threshold of the nearest
    operating point.

    When all scores are equal the curve is one straight line and the EER is 50 %, with a
    RuntimeWarning. Scores and target are (T,).
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
    """Return the equal error rate in percent; see `eer_point`."""
    return eer_point(scores, target)[0]


def _costs(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    """Return the weights of fnr and fpr in the normalised detection cost."""
    if not 0.0 < p_target < 1.0 or c_miss <= 0 or c_fa <= 0:
        raise UserError(
            f"p_target {p_target}, c_miss {c_miss}, c_fa {c_fa}: need 0 < p_target < 1 and positive"
            " costs"
        )
    miss = c_miss * p_target
    false_alarm = c_fa * (1.0 - p_target)
    smaller = min(miss, false_alarm)
    return miss / smaller, false_alarm / smaller


def min_dcf(
    scores: ArrayLike, target: ArrayLike, p_target: float, c_miss: float = 1, c_fa: float = 1
) -> float:
    """Return the smallest detection cost over all thresholds, divided by that of the better
    constant decision (so at most 1).

    NIST SRE: `(c_miss p fnr + c_fa (1 - p) fpr) / min(c_miss p, c_fa (1 - p))`.

    Args:
        scores: (T,).
        target: (T,), true for target trials.
        p_target: prior probability p of a target trial.
        c_miss: cost of a target trial that is rejected.
        c_fa: cost of a non-target trial that is accepted.
    """
    _costs(p_target, c_miss, c_fa)
    fpr, fnr, _ = det_curve(scores, target)
    return curve_min_dcf(fpr, fnr, p_target, c_miss, c_fa)


def act_dcf(
    llr: ArrayLike, target: ArrayLike, p_target: float, c_miss: float = 1, c_fa: float = 1
) -> float:
    """Return the normalised detection cost at Bayes' threshold `log(c_fa (1 - p) / (c_miss p))`.

    Args:
        llr: (T,) natural-log likelihood ratios, that is, calibrated scores; on cosines this cost
            means nothing.
        target: (T,), true for target trials.
        p_target, c_miss, c_fa: as for `min_dcf`.
    """
    miss, false_alarm = _costs(p_target, c_miss, c_fa)
    llr, target = _checked_trials(llr, target)
    accepted = llr >= np.log(false_alarm / miss)
    fnr = np.mean(~accepted[target])
    fpr = np.mean(accepted[~target])
    return float(miss * fnr + false_alarm * fpr)


def cllr(llr: ArrayLike, target: ArrayLike) -> float:
    """Return the log-likelihood-ratio cost in bits (Brummer and du Preez 2006); 1 for scores that
    say nothing.

    `llr` (T,): calibrated scores, as for `act_dcf`.
    """
    llr, target = _checked_trials(llr, target)
    target_cost = np.logaddexp(0, -llr[target]).mean()
    nontarget_cost = np.logaddexp(0, llr[~target]).mean()
    return float((target_cost + nontarget_cost) / (2 * np.log(2)))


def contingency(
    truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[Any], Floats]:
    """Return `(labels (C,), counts (C, C))`: rows are true labels, columns predicted ones.

    Args:
        truth: (N,) labels.
        predicted: (N,) labels.
        weights: (N,) of the items; None: each counts once.
    """
    truth = np.asarray(truth)
    predicted = np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise UserError(
            f"{predicted.shape} predictions for {truth.shape} labels: give one each, and at least"
            " one"
        )
    labels, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    cells = codes[: len(truth)] * len(labels) + codes[len(truth) :]
    cell_weights = None if weights is None else np.asarray(weights)
    counts = np.bincount(cells, cell_weights, minlength=len(labels) ** 2)
    return labels, counts.reshape(len(labels), len(labels)).astype(np.float64)


def micro_f1(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the micro-averaged F1 (0 to 1): with one label an item, the accuracy."""
    _, counts = contingency(truth, predicted, weights)
    return float(np.trace(counts) / counts.sum())


def macro_f1(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean over classes of F1 (0 to 1).

    A class is any label that is true or predicted somewhere.
    """
    _, counts = contingency(truth, predicted, weights)
    support = counts.sum(0) + counts.sum(1)
    used = support > 0
    return float(np.mean(2 * np.diag(counts)[used] / support[used]))


def uar(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the unweighted average recall (0 to 1) over the classes in `truth`: the balanced
    accuracy.
    """
    _, counts = contingency(truth, predicted, weights)
    support = counts.sum(1)
    used = support > 0
    return float(np.mean(np.diag(counts)[used] / support[used]))


def _joint(truth: ArrayLike, clusters: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the counts of (class, cluster) pairs, of classes, of clusters, and of the commonest
    class in each cluster.

    Only occupied cells are kept: thousands of speakers by thousands of clusters would not fit as a
    table.
    """
    truth = np.asarray(truth)
    clusters = np.asarray(clusters)
    if truth.ndim != 1 or truth.shape != clusters.shape or not len(truth):
        raise UserError(
            f"{clusters.shape} clusters for {truth.shape} labels: give one each, and at least one"
        )
    rows = np.unique(truth, return_inverse=True)[1]
    columns = np.unique(clusters, return_inverse=True)[1]
    width = int(columns.max()) + 1
    cells, counts = np.unique(rows * width + columns, return_counts=True)
    largest = np.zeros(width)
    np.maximum.at(largest, cells % width, counts)
    class_counts = np.bincount(rows).astype(float)
    cluster_counts = np.bincount(columns).astype(float)
    return counts.astype(float), class_counts, cluster_counts, largest


def purity(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the share of items (0 to 1) that belong to the commonest class of their cluster."""
    cells, _, _, largest = _joint(truth, clusters)
    return float(largest.sum() / cells.sum())


def nmi(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the mutual information over the mean of the two entropies (0 to 1).

    It is 1 when both have a single label.
    """

    def entropy(counts: Floats) -> float:
        shares = counts[counts > 0] / counts.sum()
        return float(-np.sum(shares * np.log(shares)))

    cells, classes, cluster_counts, _ = _joint(truth, clusters)
    both = entropy(classes) + entropy(cluster_counts)
    if both == 0.0:
        return 1.0
    return max(0.0, 2 * (both - entropy(cells)) / both)


def ari(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the adjusted Rand index (Hubert and Arabie 1985).

    It is 1 for equal partitions and 0 on average for random ones.
    """

    def pairs(counts: Floats) -> float:
        return float(np.sum(counts * (counts - 1) / 2))

    cells, classes, cluster_counts, _ = _joint(truth, clusters)
    together = pairs(cells)
    by_class = pairs(classes)
    by_cluster = pairs(cluster_counts)
    expected = by_class * by_cluster / max(pairs(cells.sum(keepdims=True)), 1.0)
    largest = (by_class + by_cluster) / 2
    if largest == expected:
        return 1.0
    return (together - expected) / (largest - expected)


def _quantiles(values: Floats, confidence: float) -> Interval | None:
    """Return the percentile interval of the values that are not NaN; None if there is none."""
    kept = values[~np.isnan(values)]
    if not len(kept):
        return None
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resampler(clusters: int, seed: int) -> Callable[[], NDArray[np.int64]]:
    """Return a function that draws a resample: how often each cluster occurs, (clusters,).

    As many clusters are drawn as there are, with replacement.
    """
    generator = np.random.default_rng(seed)

    def draw() -> NDArray[np.int64]:
        return np.bincount(generator.integers(0, clusters, clusters), minlength=clusters)

    return draw


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
    """Compute a percentile interval of a statistic over whole clusters (speakers).

    Args:
        statistic: function of the weights (N,) of the items; an item's weight is how often its
            cluster was drawn. For instance `lambda w: uar(truth, predicted, w)`.
        clusters: (N,), the speaker of each item.
        replicates: how many resamples.
        confidence: share of the replicates within the interval.
        seed: of the resamples.

    Returns:
        The interval; None if there are fewer than two clusters.
    """
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return None
    draw = _resampler(len(names), seed)
    values = np.empty(replicates)
    for replicate in counted(range(replicates), replicates, "bootstrap", "replicates"):
        values[replicate] = statistic(draw()[codes])
    return _quantiles(values, confidence)


def bootstrap_curve(
    measures: Mapping[str, CurveFigure],
    scores: ArrayLike,
    target: ArrayLike,
    enrol_speaker: ArrayLike,
    test_speaker: ArrayLike,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Compute percentile intervals, over speakers, of measures of the error curve.

    Speakers are resampled with replacement. A trial between two speakers weighs the product of how
    often each was drawn (both had to be there), one within a speaker weighs that number once: the
    pigeonhole bootstrap (Owen 2007), which is somewhat conservative for the non-target trials. The
    scores are sorted once; a replicate is a weighted cumulative sum.

    Args:
        measures: name -> function of (fpr, fnr), each (U,), such as `curve_eer`. The curve has only
            the points where it can turn; between them it is straight.
        scores: (T,).
        target: (T,), true for target trials.
        enrol_speaker: (T,), the speaker of the first side of each trial.
        test_speaker: (T,), the speaker of the second side.
        replicates: how many resamples; those without targets or without non-targets are left out.
        confidence: share of the replicates within the interval.
        seed: of the resamples.

    Returns:
        Name -> interval; None if there are fewer than two speakers.
    """
    scores, target = _checked_trials(scores, target)
    sides = np.concatenate([np.asarray(enrol_speaker), np.asarray(test_speaker)])
    names, codes = np.unique(sides, return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(measures)
    order = np.argsort(scores)
    sorted_target = target[order]
    enrol = codes[: len(order)][order]
    test = codes[len(order) :][order]
    # The second factor of a trial within a speaker is 1, which stands after the speakers' counts.
    second = np.where(enrol != test, test, len(names))
    starts = _corners(sorted_target, _group_starts(scores[order]))
    draw = _resampler(len(names), seed)
    values = np.full((len(measures), replicates), np.nan)
    for replicate in counted(range(replicates), replicates, "bootstrap", "replicates"):
        times = draw()
        weights = times[enrol] * np.append(times, 1)[second]
        fpr, fnr = _rates(weights, sorted_target, starts)
        if not np.isnan(fpr[0]):
            values[:, replicate] = [measure(fpr, fnr) for measure in measures.values()]
    return {name: _quantiles(row, confidence) for name, row in zip(measures, values, strict=True)}


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
    """Compute percentile intervals of `eer` (percent) and of `min_dcf_<p>` for each p of
    `p_targets`.

    Everything else is as for `bootstrap_curve`.
    """
    measures: dict[str, CurveFigure] = {"eer": curve_eer}
    for p_target in p_targets:
        measures[f"min_dcf_{p_target:g}"] = partial(curve_min_dcf, p_target=p_target)
    return bootstrap_curve(
        measures,
        scores,
        target,
        enrol_speaker,
        test_speaker,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )


def _corners(target: NDArray[np.bool_], starts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the starts where the curve can turn.

    Between two neighbouring groups of only targets, or of only non-targets, it runs straight.
    """
    share = np.add.reduceat(target, starts[:-1], dtype=np.float64) / np.diff(starts)
    is_pure = (share[1:] == 0) | (share[1:] == 1)
    is_straight = is_pure & (share[1:] == share[:-1])
    kept: NDArray[np.intp] = starts[np.concatenate([[True], ~is_straight, [True]])]
    return kept
