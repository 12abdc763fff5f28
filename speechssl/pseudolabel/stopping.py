"""When a further round would not help, and which round's model is the best one.

Both are decided without labels, or on held-out trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speechssl.pseudolabel.settings import PseudoLabelSettings


def is_enough(settings: PseudoLabelSettings, rounds: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the last round shows that another one would not help.

    Args:
        settings: the criterion.
        rounds: results of all rounds so far, at least two.
    """
    last = rounds[-1]
    before = rounds[-2]
    if settings.stop == "agreement":
        return bool(last["agreement"] >= settings.agreement)
    if settings.stop == "silhouette":
        return _silhouette(last) <= _silhouette(before)
    if settings.stop == "eer":
        return bool(last["heldout_eer"] >= before["heldout_eer"])
    return False


def best(settings: PseudoLabelSettings, rounds: Sequence[Mapping[str, Any]]) -> int:
    """Return the round whose model is taken.

    It is the best by the criterion, round 0 included; without a criterion, the last.
    """
    if settings.stop == "silhouette":
        return int(np.argmax([_silhouette(result) for result in rounds]))
    if settings.stop == "eer":
        return int(np.argmin([result["heldout_eer"] for result in rounds]))
    return len(rounds) - 1


def labels_used(settings: PseudoLabelSettings) -> list[str]:
    """Return which labels decided, as the results name them."""
    if settings.stop == "eer":
        return [f"held-out trials ({settings.heldout})"]
    return []


def _silhouette(result: Mapping[str, Any]) -> float:
    """Return the silhouette of a round, or its lowest value (-1) if it is undefined (one cluster)."""
    value = result["clusters"]["silhouette"]
    return -1.0 if value is None else float(value)
