"""Verification errors by what the two sides of a trial share besides the speaker.

A target trial is hard when its sides differ in the label (one speaker, two emotions), a non-target
when they agree in it (two speakers, one emotion). An embedding that knows the speaker alone has the
same error in all four combinations; one that mixes up the label errs most on different targets
against same non-targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.evaluation.verification.measures import measure_curve
from speechssl.evaluation.verification.verify import Verification

SHARED = ("same", "different")

MIXED = "mixed"
"""Label of a model whose utterances have several: it is shared with no test utterance."""


def split_by_label(
    run: Verification,
    labels: Mapping[str, str],
    speakers: Mapping[str, str] | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure each combination of target and non-target trials with the same label and with
    different ones.

    Args:
        run: trials and their scores, from `verify`.
        labels: utterance -> label, of every utterance in a trial (and of models, `with_models`).
        speakers: utterance -> speaker, for intervals; None: no intervals.
        replicates: bootstrap resamples of the speakers.
        seed: of the bootstrap.

    Returns:
        Rows with ``targets`` and ``nontargets`` (same, different), every measure of the error curve
        (``eer``, percent, ...) with its ``<name>_interval`` (95 %, or None), ``target_trials`` and
        ``nontarget_trials``. Combinations without targets or without non-targets are left out.

    Raises:
        UserError: an utterance in a trial has no label, or no speaker.
    """
    enrol_label = _look_up(labels, run.trials.enrol, "label to split by")
    test_label = _look_up(labels, run.trials.test, "label to split by")
    is_same = enrol_label == test_label
    sides = None
    if speakers:
        sides = (
            _look_up(speakers, run.trials.enrol, "speaker"),
            _look_up(speakers, run.trials.test, "speaker"),
        )
    rows: list[dict[str, Any]] = []
    for targets, nontargets in product(SHARED, SHARED):
        wanted = np.where(run.trials.target, targets == "same", nontargets == "same")
        measured = _measure(run, is_same == wanted, sides, replicates, seed)
        if measured is not None:
            rows.append({"targets": targets, "nontargets": nontargets, **measured})
    return rows


def with_models(
    values: Mapping[str, str], models: Mapping[str, Sequence[str]] | None
) -> dict[str, str]:
    """Return the values of utterances, and of models what their utterances share.

    Args:
        values: utterance -> label or speaker.
        models: model -> its utterances. A model of several values has `MIXED`; one of which no
            utterance has a value gets none.
    """
    complete = dict(values)
    for model, utterances in (models or {}).items():
        found = {values[name] for name in utterances if name in values}
        if found:
            complete[model] = found.pop() if len(found) == 1 else MIXED
    return complete


def _measure(
    run: Verification,
    kept: NDArray[np.bool_],
    sides: tuple[NDArray[np.str_], NDArray[np.str_]] | None,
    replicates: int,
    seed: int,
) -> dict[str, Any] | None:
    """Return the measures of the trials in ``kept`` (T,), or None if a kind of trial is missing."""
    target = run.trials.target[kept]
    targets = int(target.sum())
    nontargets = int((~target).sum())
    if not targets or not nontargets:
        return None
    kept_sides = None
    if sides is not None:
        kept_sides = (sides[0][kept], sides[1][kept])
    measured = measure_curve(run.scores[kept], target, kept_sides, replicates=replicates, seed=seed)
    return measured | {"target_trials": targets, "nontarget_trials": nontargets}


def _look_up(table: Mapping[str, str], names: NDArray[np.str_], what: str) -> NDArray[np.str_]:
    """Return the entry of each name (T,) in ``table``; ``what`` says what a missing one is."""
    missing = next((name for name in names.tolist() if name not in table), None)
    if missing is not None:
        raise UserError(
            f"verification: {missing!r} has no {what}; all utterances in trials need one"
        )
    return np.array([table[name] for name in names.tolist()])
