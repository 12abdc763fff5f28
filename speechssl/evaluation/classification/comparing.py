"""A finished classification beside another one of the same utterances, with intervals of the gain."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.evaluation.classification.classify import (
    MEASURES,
    Classification,
    Measure,
    Weights,
    confusions,
    evaluate,
    measured,
    with_interval,
)
from speechssl.evaluation.classification.folds import Names

Rows = NDArray[np.float32]


def compare_embeddings(
    run: Classification,
    ids: Names,
    embeddings: Rows,
    *,
    what: str = "the other embeddings",
    **options: Any,
) -> dict[str, Any]:
    """Probe other embeddings of the utterances of a run on its folds, and compare.

    Args:
        run: what ``evaluate`` returned.
        ids: (N,); all utterances of the run, in any order.
        embeddings: (N, D).
        what: names the embeddings in an error.
        options: of ``evaluate``; labels, groups, test_folds and the rest as for the run.

    Returns:
        As ``compare_predictions``.

    Raises:
        UserError: an utterance of the run is missing.
    """
    ids = np.asarray(ids, str)
    _check_all_there(run.folds, set(ids.tolist()), what)
    kept = np.array([name in run.folds for name in ids.tolist()])
    other = evaluate(ids[kept], embeddings[kept], folds=run.folds, **options)
    predicted = dict(zip(other.ids.tolist(), other.predicted.tolist(), strict=True))
    return compare_predictions(
        run,
        predicted,
        replicates=options.get("replicates", 1000),
        seed=options.get("seed", 0),
        what=what,
    )


def compare_predictions(
    run: Classification,
    predicted: Mapping[str, str],
    *,
    replicates: int = 1000,
    seed: int = 0,
    what: str = "the other predictions",
) -> dict[str, Any]:
    """Compare a run with what another classifier predicted for its utterances.

    Args:
        run: what ``evaluate`` returned.
        predicted: utterance -> class.
        replicates: bootstrap resamples of groups, 0 for none.
        seed: of the bootstrap.
        what: names the predictions in an error.

    Returns:
        micro_f1, macro_f1 and uar of the other, and ``<figure>_gain``: how much higher the run's
        is, each with its ``_interval`` over groups (the same resamples for both: what is hard for
        both cancels).

    Raises:
        UserError: an utterance of the run is missing.
    """
    _check_all_there(run.ids.tolist(), predicted, what)
    other = np.array([predicted[name] for name in run.ids.tolist()])
    row: dict[str, Any] = {}
    for key, measure in MEASURES.items():
        row |= measured(key, measure, run.truth, other, run.group, replicates, seed)
        row |= _gain(key, measure, run, other, replicates, seed)
    return row


def _gain(
    key: str,
    measure: Measure,
    run: Classification,
    other: Names,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Return how much higher a measure is for the run than for ``other`` (N,), and the interval."""

    of_run = confusions(run.truth, run.predicted, run.group)
    of_other = confusions(run.truth, other, run.group)

    def statistic(weights: Weights | None) -> float:
        return measure(of_run(weights)) - measure(of_other(weights))

    return with_interval(f"{key}_gain", statistic, run.group, replicates, seed)


def _check_all_there(wanted: Iterable[str], there: Container[str], what: str) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UserError(
            f"classification: {what}: {len(missing)} utterances of the run are missing, such as"
            f" {missing[0]!r}"
        )
