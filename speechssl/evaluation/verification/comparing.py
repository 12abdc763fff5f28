"""A finished verification beside another system's scores of the same trials, with paired intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from speechssl import metrics
from speechssl.data.scores import read_scores
from speechssl.errors import UserError
from speechssl.evaluation.verification.measures import MEASURES, CurveMeasure
from speechssl.evaluation.verification.verify import Verification


def compare_scores(
    run: Verification, path: Path, *, replicates: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compare a run with another system on the trials that both have scored.

    The interval of a difference is a bootstrap over speakers with the same resamples for both
    systems. That it holds 0 means that this list does not tell the two apart.

    Args:
        run: what `verify` returned.
        path: lines `enrol test score`, or a folder that `speechssl evaluate verification --out` wrote.
        replicates: bootstrap resamples; 0: no intervals.
        seed: of the resamples.

    Returns:
        `trials`, the number that both have scored, and for each measure of the error curve on them:
        `eer` (this system), `eer_other`, `eer_difference` (this minus the other: below 0 is better)
        and `eer_difference_interval` ([low, high], 95 %, or None); `min_dcf_0.01` and so on.

    Raises:
        UserError: the scores cannot be read, or they share no target or no non-target trial with
            the run.
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
    one = run.scores[is_shared]
    other = np.array([score for score in found if score is not None])
    computes = {m.name: m.compute for m in MEASURES if isinstance(m, CurveMeasure)}
    intervals: dict[str, metrics.Interval | None] = {}
    if replicates and run.speakers is not None:
        sides = [side[is_shared] for side in run.speakers]
        intervals = metrics.bootstrap_curve_difference(
            computes, one, other, target, *sides, replicates=replicates, seed=seed
        )
    fpr, fnr, _ = metrics.det_curve(one, target)
    other_fpr, other_fnr, _ = metrics.det_curve(other, target)
    results: dict[str, Any] = {"trials": len(target)}
    for name, compute in computes.items():
        ours = compute(fpr, fnr)
        theirs = compute(other_fpr, other_fnr)
        interval = intervals.get(name)
        results[name] = ours
        results[f"{name}_other"] = theirs
        results[f"{name}_difference"] = ours - theirs
        results[f"{name}_difference_interval"] = None if interval is None else list(interval)
    return results
