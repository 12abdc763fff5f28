"""Errors of speaker verification: the DET curve, the equal error rate, detection costs.

A trial is accepted when `score >= threshold`; the false positive rate (fpr) is the share of
non-target trials accepted, the false negative rate (fnr) the share of target trials rejected.
Trials with the same score are one step of the curve, whatever their order in the list. Between
steps the curve is interpolated linearly (not replaced by its convex hull, whose EER is never higher
and reads better than the scores are).

Which figures a verification run reports is not decided here but in the table of
`evaluation.verification.measures`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.errors import UserError

Floats = NDArray[np.float64]
CurveFigure = Callable[[Floats, Floats], float]
"""A number computed from an error curve: fpr (U + 1,) and fnr (U + 1,), as `det_curve` returns."""


def checked_trials(scores: ArrayLike, target: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
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


def group_starts(sorted_scores: Floats) -> NDArray[np.intp]:
    """Return where each run of equal scores begins, and the length of the list at the end."""
    steps = np.flatnonzero(sorted_scores[1:] != sorted_scores[:-1]) + 1
    return np.concatenate([[0], steps, [len(sorted_scores)]])


def rates_of_sums(targets: NDArray[Any], nontargets: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return (fpr, fnr), each (U + 1,), from the weights of the trials between U + 1 thresholds.

    Both are NaN if all target trials, or all non-target trials, weigh nothing.

    Args:
        targets: (U,), of the target trials between each threshold and the next, ascending.
        nontargets: (U,), of the others.
    """
    targets_below = np.concatenate([[0], np.cumsum(targets)])
    nontargets_below = np.concatenate([[0], np.cumsum(nontargets)])
    all_targets = targets_below[-1]
    all_nontargets = nontargets_below[-1]
    if all_targets <= 0 or all_nontargets <= 0:
        undefined = np.full(len(targets_below), np.nan)
        return undefined, undefined
    return (all_nontargets - nontargets_below) / all_nontargets, targets_below / all_targets


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
    scores, target = checked_trials(scores, target)
    order = np.argsort(scores)
    sorted_scores = scores[order]
    starts = group_starts(sorted_scores)
    sorted_weights = np.ones(len(order)) if weights is None else np.asarray(weights)[order]
    of_targets = sorted_weights * target[order]
    between = starts[:-1]
    fpr, fnr = rates_of_sums(
        np.add.reduceat(of_targets, between), np.add.reduceat(sorted_weights - of_targets, between)
    )
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
    # The last threshold is infinite: it accepts nothing, so it is of no use to a user.
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
    llr, target = checked_trials(llr, target)
    accepted = llr >= np.log(false_alarm / miss)
    fnr = np.mean(~accepted[target])
    fpr = np.mean(accepted[~target])
    return float(miss * fnr + false_alarm * fpr)


def cllr(llr: ArrayLike, target: ArrayLike) -> float:
    """Return the log-likelihood-ratio cost in bits (Brummer and du Preez 2006); 1 for scores that
    say nothing.

    `llr` (T,): calibrated scores, as for `act_dcf`.
    """
    llr, target = checked_trials(llr, target)
    target_cost = np.logaddexp(0, -llr[target]).mean()
    nontarget_cost = np.logaddexp(0, llr[~target]).mean()
    return float((target_cost + nontarget_cost) / (2 * np.log(2)))
