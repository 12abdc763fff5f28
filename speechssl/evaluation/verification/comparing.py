"""A finished verification beside other systems' scores of the same trials, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.data.scores import read_scores
from speechssl.errors import UserError
from speechssl.evaluation.verification.measures import MEASURES, CurveMeasure
from speechssl.evaluation.verification.verify import Verification


@dataclass(frozen=True)
class Other:
    """Another system.

    Attributes:
        name: for the results.
        is_shared: (T,) which trials of the list it has scored.
        scores: (S,) of those, in the order of the list.
    """

    name: str
    is_shared: NDArray[np.bool_]
    scores: metrics.Floats


def compare_scores(
    run: Verification,
    paths: Sequence[tuple[str, Path]],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Compare a run with other systems, each on the trials that both have scored.

    The interval of a difference is a bootstrap over speakers with the same resamples for both
    systems. That it holds 0 means that this list does not tell the two apart.

    Args:
        run: what `verify` returned.
        paths: name of each system, and lines `enrol test score`, or a folder that
            `speechssl evaluate verification --out` wrote.
        replicates: bootstrap resamples; 0: no intervals.
        seed: of the resamples.

    Returns:
        For each system by its name: `trials`, the number that both have scored, and for each measure of
        the error curve on them: `eer` (this system), `eer_other`, `eer_difference` (this minus the
        other: below 0 is better) and `eer_difference_interval` ([low, high], 95 %, or None);
        `min_dcf_0.01` and so on.

    Raises:
        UserError: scores cannot be read, or they share no target or no non-target trial with the run.
    """
    others = [_read_other(run, name, path) for name, path in paths]
    of_same_trials: dict[bytes, list[Other]] = {}
    for other in others:
        of_same_trials.setdefault(other.is_shared.tobytes(), []).append(other)
    found: dict[str, dict[str, Any]] = {}
    for group in of_same_trials.values():
        found |= _compare_on_same_trials(run, group, replicates, seed)
    return {other.name: found[other.name] for other in others}


def _read_other(run: Verification, name: str, path: Path) -> Other:
    """Return the scores that a system has of the trials of a run.

    Raises:
        UserError: as `compare_scores`.
    """
    file = path / "scores" if path.is_dir() else path
    score_of = read_scores(file)
    pairs = zip(run.trials.enrol.tolist(), run.trials.test.tolist(), strict=True)
    found = [score_of.get(pair) for pair in pairs]
    is_shared = np.array([score is not None for score in found], bool)
    target = run.trials.target[is_shared]
    if not target.any() or target.all():
        raise UserError(
            f"{file}: shares {int(target.sum())} target and {int((~target).sum())} non-target trials with"
            " the list; give another system's scores of the same list"
        )
    return Other(name, is_shared, np.array([score for score in found if score is not None]))


def _compare_on_same_trials(
    run: Verification, others: Sequence[Other], replicates: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return what `compare_scores` does, of systems that have scored the same trials."""
    is_shared = others[0].is_shared
    target = run.trials.target[is_shared]
    ours = run.scores[is_shared]
    computes = {m.name: m.compute for m in MEASURES if isinstance(m, CurveMeasure)}
    intervals: list[dict[str, metrics.Interval | None]] = [{} for _ in others]
    if replicates and run.speakers is not None:
        sides = [side[is_shared] for side in run.speakers]
        scores = [other.scores for other in others]
        intervals = metrics.bootstrap_curve_differences(
            computes, ours, scores, target, *sides, replicates=replicates, seed=seed
        )
    results = {}
    for other, interval_of in zip(others, intervals, strict=True):
        results[other.name] = _differences(computes, ours, other.scores, target, interval_of)
    return results


def _differences(
    computes: Mapping[str, metrics.CurveFigure],
    scores: metrics.Floats,
    other_scores: metrics.Floats,
    target: NDArray[np.bool_],
    interval_of: Mapping[str, metrics.Interval | None],
) -> dict[str, Any]:
    """Return what `compare_scores` says of one system, from S trials that both have scored.

    Args:
        computes: name of each measure, and what computes it of an error curve.
        scores, other_scores, target: (S,) each.
        interval_of: name of each measure, and the interval of its difference, if it is known.
    """
    fpr, fnr, _ = metrics.det_curve(scores, target)
    other_fpr, other_fnr, _ = metrics.det_curve(other_scores, target)
    results: dict[str, Any] = {"trials": len(target)}
    for name, compute in computes.items():
        ours = compute(fpr, fnr)
        theirs = compute(other_fpr, other_fnr)
        interval = interval_of.get(name)
        results[name] = ours
        results[f"{name}_other"] = theirs
        results[f"{name}_difference"] = ours - theirs
        results[f"{name}_difference_interval"] = None if interval is None else list(interval)
    return results
