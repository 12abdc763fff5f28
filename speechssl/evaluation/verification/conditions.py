"""Verification errors by what else the two sides of a trial share: what an embedding takes for the
    speaker.

A target trial is hard when its sides differ in the label (one speaker, two emotions), a non-target
when they agree in it (two speakers, one emotion). An embedding that knows the speaker alone has the
same error in all four combinations; one that mixes up the label errs most on different targets
against same non-targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from speechssl import metrics
from speechssl.errors import UserError
from speechssl.evaluation.verification.verify import Verification


def split_by_label(
    run: Verification,
    labels: Mapping[str, str],
    speakers: Mapping[str, str] | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """EER of each combination of target and non-target trials with the same label and with
    different ones.

    Args:
        run: trials and their scores, from `verify`.
        labels: utterance -> label, of every utterance in a trial.
        speakers: utterance -> speaker, for intervals; without it there are none.
        replicates, seed: of the bootstrap over speakers.

    Returns:
        Rows with ``targets`` and ``nontargets`` (same, different), ``eer`` (percent),
        ``eer_interval`` (95 %, or null), ``target_trials``, ``nontarget_trials``; combinations
        without any trial are left out.

    Raises:
        UserError: an utterance has no label.
    """
    sides = [run.trials.enrol.tolist(), run.trials.test.tolist()]
    without = [name for side in sides for name in side if name not in labels]
    if without:
        raise UserError(
            f"verification: {without[0]!r} has no label to split by; give a label for every trial"
        )
    same = np.array([labels[a] == labels[b] for a, b in zip(*sides, strict=True)])
    target = run.trials.target
    rows: list[dict[str, Any]] = []
    for targets in ("same", "different"):
        for nontargets in ("same", "different"):
            kept = np.where(target, same == (targets == "same"), same == (nontargets == "same"))
            counts = int((kept & target).sum()), int((kept & ~target).sum())
            if not all(counts):
                continue
            row: dict[str, Any] = {"targets": targets, "nontargets": nontargets}
            row["eer"], row["eer_interval"] = metrics.eer(run.scores[kept], target[kept]), None
            if speakers and replicates:
                enrol, test = ([speakers[name] for name in side] for side in sides)
                row["eer_interval"] = _interval(
                    run.scores[kept],
                    target[kept],
                    (np.array(enrol)[kept], np.array(test)[kept]),
                    replicates,
                    seed,
                )
            rows.append(row | {"target_trials": counts[0], "nontarget_trials": counts[1]})
    return rows


def _interval(
    scores: Any, target: Any, sides: tuple[Any, Any], replicates: int, seed: int
) -> list[float] | None:
    found = metrics.bootstrap_trials(
        scores, target, *sides, p_targets=(), replicates=replicates, seed=seed
    )
    return None if found["eer"] is None else list(found["eer"])
