"""When a further round would not help, and which round's model is the best: without labels, or held
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speechssl.pseudolabel.settings import PseudoLabelSettings


def is_enough(settings: PseudoLabelSettings, rounds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last round says that another would not help."""
    last, before = rounds[-1], rounds[-2]
    if settings.stop == "agreement":
        return bool(last["agreement"] >= settings.agreement)
    if settings.stop == "silhouette":
        return _silhouette(last) <= _silhouette(before)
    return settings.stop == "eer" and bool(last["heldout_eer"] >= before["heldout_eer"])


def best(settings: PseudoLabelSettings, rounds: Sequence[Mapping[str, Any]]) -> int:
    """The round whose model is taken: the best by the criterion (the start too), the last without
    one.
    """
    if settings.stop == "silhouette":
        return int(np.argmax([_silhouette(r) for r in rounds]))
    if settings.stop == "eer":
        return int(np.argmin([r["heldout_eer"] for r in rounds]))
    return len(rounds) - 1


def _silhouette(result: Mapping[str, Any]) -> float:
    """Of a round; the worst there is where it is not defined (one cluster)."""
    value = result["clusters"]["silhouette"]
    return -1.0 if value is None else float(value)
