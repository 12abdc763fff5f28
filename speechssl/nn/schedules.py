"""Numbers that change in the course of a run."""

from __future__ import annotations

import math
from typing import NamedTuple


class LinearRamp(NamedTuple):
    """A number that goes from ``start`` to ``end`` over a share of the run and stays there."""

    start: float
    end: float
    share: float

    def at(self, fraction: float) -> float:
        """Return the number when ``fraction`` (0 to 1) of the run is done."""
        if self.share <= 0 or fraction >= self.share:
            return self.end
        return self.start + (self.end - self.start) * fraction / self.share


def cosine_schedule(start: float, end: float, fraction: float) -> float:
    """Return half a cosine from `start` to `end` (teacher momentum of BYOL and DINO).

    Args:
        start: value at fraction 0.
        end: value at fraction 1 and above.
        fraction: share of the run that is done.
    """
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, fraction))) / 2
