"""Learning rate and weight decay as functions of the share of the run that is done."""

from __future__ import annotations

import math


def warmup_cosine(fraction: float, base: float, final: float, warmup: float) -> float:
    """Return the value of a linear warm-up followed by half a cosine.

    It rises from 0 to ``base`` over the first ``warmup`` share of the run and then
    falls (or rises) to ``final``. The programs of DINO and its relatives build the rise
    with ``numpy.linspace``, whose last step is the peak already: theirs reaches it one
    step earlier.

    Args:
        fraction: share of the run that is done, 0 to 1.
        base: value at the end of the warm-up.
        final: value at the end of the run.
        warmup: share of the run, 0 for none.
    """
    if fraction < warmup:
        return base * fraction / warmup
    rest = (fraction - warmup) / max(1e-12, 1.0 - warmup)
    return final + (base - final) * (1 + math.cos(math.pi * min(1.0, rest))) / 2
