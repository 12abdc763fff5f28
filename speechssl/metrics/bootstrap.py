"""Percentile intervals by resampling whole speakers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from speechssl.metrics.verification import (
    CurveFigure,
    Floats,
    checked_trials,
    curve_eer,
    curve_min_dcf,
    group_starts,
    rates_of_sums,
)
from speechssl.progress import counted

Interval = tuple[float, float]

# Resamples and trials whose weights are computed together: they stay in a core's cache, and
# their sums are exact in float32.
_AT_ONCE = 32
_TRIALS_AT_ONCE = 4096


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
    scores are sorted once; a replicate is sums of weights between the points where the curve can turn.

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
    speakers = (np.asarray(enrol_speaker), np.asarray(test_speaker))
    values = _resampled_measures(measures, scores, target, speakers, replicates, seed)
    if values is None:
        return dict.fromkeys(measures)
    return {name: _quantiles(row, confidence) for name, row in zip(measures, values, strict=True)}


def bootstrap_curve_differences(
    measures: Mapping[str, CurveFigure],
    scores: ArrayLike,
    others: Sequence[ArrayLike],
    target: ArrayLike,
    enrol_speaker: ArrayLike,
    test_speaker: ArrayLike,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Interval | None]]:
    """Compute percentile intervals of what one system's measures exceed those of others by.

    All are measured on the same trials under the same resamples of the speakers: what a hard
    speaker does to two of them is no part of their difference. The one system is resampled once.

    Args:
        measures: as for `bootstrap_curve`.
        scores: (T,), of the one system.
        others: K times (T,), of the other systems, for the same trials.
        target: (T,), true for target trials.
        enrol_speaker: (T,), the speaker of the first side of each trial.
        test_speaker: (T,), the speaker of the second side.
        replicates: how many resamples.
        confidence: share of the replicates within the interval.
        seed: of the resamples.

    Returns:
        For each of the K: name -> interval; None if there are fewer than two speakers.
    """
    names = np.stack([np.asarray(enrol_speaker), np.asarray(test_speaker)])
    # Numbers in their place: names are sorted once, and not for every system.
    codes = np.unique(names, return_inverse=True)[1].reshape(names.shape)
    speakers = (codes[0], codes[1])
    ours = _resampled_measures(measures, scores, target, speakers, replicates, seed)
    intervals: list[dict[str, Interval | None]] = []
    for other in others:
        theirs = _resampled_measures(measures, other, target, speakers, replicates, seed)
        if ours is None or theirs is None:
            intervals.append(dict.fromkeys(measures))
            continue
        rows = zip(measures, ours - theirs, strict=True)
        intervals.append({name: _quantiles(row, confidence) for name, row in rows})
    return intervals


def _resampled_measures(
    measures: Mapping[str, CurveFigure],
    scores: ArrayLike,
    target: ArrayLike,
    speakers: tuple[NDArray[Any], NDArray[Any]],
    replicates: int,
    seed: int,
) -> Floats | None:
    """Return the measures (M, R) under R resamples of the speakers; None if there is but one speaker.

    NaN where a resample has no targets or no non-targets. The same trials and seed make the same
    resamples, whatever the scores are.

    Args:
        measures: M, as for `bootstrap_curve`.
        scores: (T,).
        target: (T,).
        speakers: (T,) of both sides.
        replicates: R.
        seed: of the resamples.
    """
    scores, target = checked_trials(scores, target)
    names, codes = np.unique(np.concatenate(speakers), return_inverse=True)
    if len(names) < 2:
        return None
    order = np.argsort(scores)
    sorted_target = target[order]
    enrol = codes[: len(order)][order]
    test = codes[len(order) :][order]
    # The second factor of a trial within a speaker is 1, which stands after the speakers' counts.
    second = np.where(enrol != test, test, len(names))
    starts = _corners(sorted_target, group_starts(scores[order]))
    draw = _resampler(len(names), seed)
    curves = _resampled_curves(draw, replicates, (enrol, second), sorted_target, starts)
    values = np.full((len(measures), replicates), np.nan)
    counter = counted(curves, replicates, "bootstrap", "replicates")
    for replicate, (fpr, fnr) in enumerate(counter):
        if not np.isnan(fpr[0]):
            values[:, replicate] = [measure(fpr, fnr) for measure in measures.values()]
    return values


def _resampled_curves(
    draw: Callable[[], NDArray[np.int64]],
    replicates: int,
    factors: tuple[NDArray[np.intp], NDArray[np.intp]],
    target: NDArray[np.bool_],
    starts: NDArray[np.intp],
) -> Iterator[tuple[Floats, Floats]]:
    """Yield (fpr, fnr) at ``starts`` under each resample, several computed at a time.

    Args:
        draw: of `_resampler`.
        replicates: how many.
        factors: (T,) twice, of the sorted trials: which two counts a trial's weight is the
            product of; the number behind the last speaker's stands for 1.
        target: (T,), of the sorted trials.
        starts: where the curve can turn, and T.
    """
    sums_of_targets = _Sums(starts, factors, np.flatnonzero(target))
    sums_of_nontargets = _Sums(starts, factors, np.flatnonzero(~target))
    for first in range(0, replicates, _AT_ONCE):
        count = min(_AT_ONCE, replicates - first)
        times = np.stack([np.append(draw(), 1) for _ in range(count)], axis=1).astype(np.float32)
        targets = sums_of_targets(times)
        nontargets = sums_of_nontargets(times)
        for replicate in range(count):
            yield rates_of_sums(targets[:, replicate], nontargets[:, replicate])


class _Sums:
    """Sums of the weights of some trials, from each start to the next, under many resamples.

    Args:
        starts: (U + 1,) places among the sorted trials.
        factors: as for `_resampled_curves`.
        chosen: (n,) places of these trials, ascending.
    """

    def __init__(
        self,
        starts: NDArray[np.intp],
        factors: tuple[NDArray[np.intp], NDArray[np.intp]],
        chosen: NDArray[np.intp],
    ) -> None:
        self.count = len(starts) - 1
        segment = np.searchsorted(starts, chosen, side="right") - 1
        self.parts = []
        for first in range(0, len(chosen), _TRIALS_AT_ONCE):
            trials = chosen[first : first + _TRIALS_AT_ONCE]
            segments, begins = np.unique(
                segment[first : first + _TRIALS_AT_ONCE], return_index=True
            )
            # Zeros and ones: numpy's reduceat over rows takes ten times as long as this product.
            summing = csr_matrix(
                (
                    np.ones(len(trials), np.float32),
                    np.arange(len(trials)),
                    np.append(begins, len(trials)),
                ),
                shape=(len(begins), len(trials)),
            )
            self.parts.append((factors[0][trials], factors[1][trials], segments, summing))

    def __call__(self, times: NDArray[np.float32]) -> Floats:
        """Return sums (U, R), exact whole numbers.

        Args:
            times: (S + 1, R), how often each speaker was drawn in each of R resamples, then 1.
        """
        sums = np.zeros((self.count, times.shape[1]))
        for one, other, segments, summing in self.parts:
            weights = times.take(one, axis=0)
            weights *= times.take(other, axis=0)
            sums[segments] += summing @ weights
        return sums


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
