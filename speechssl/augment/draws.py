"""Random numbers by name: what is drawn for each crop, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from speechssl.augment.plan import EQ_KNOTS, TAPS

DRAW_NAMES: Mapping[str, int] = {
    "noise": 1,
    "babble": 1,
    "room": 1,
    "simulate": 1,
    "filter": 1,
    "codec": 1,
    "noise_kind": 1,
    "noise_file": 1,
    "noise_place": 1,
    "snr": 1,
    "voices": 1,
    "neighbour": 1,
    "babble_snr": 1,
    "response": 1,
    "t60": 1,
    "direct_to_reverberant": 1,
    "tail": 1,
    "tilt": 1,
    "band_limited": 1,
    "low_edge": 1,
    "high_edge": 1,
    "codec_kind": 1,
    "cutoff": 1,
    "bits": 1,
    "dither": 1,
    "gain": 1,
    "bit_rate": 1,
    "ripples": EQ_KNOTS,
    "taps": 2 * TAPS,
}
"""Numbers drawn for each crop: name -> how many.

The order decides which number is which, so it is part of what a seed means. A new draw takes the
place of a spare name: no other number changes. A name that is added at the end changes the plans of
every crop but the first.
"""


class UniformDraws:
    """Uniform random numbers in 0..1, found by the name of what they decide.

    All of them are drawn at once, needed or not, so that a setting of one effect changes no draw of
    another.

    Args:
        rng: the only source of randomness.
        count: N, the number of crops.
        names: how many numbers of each name a crop needs, in the order in which they are drawn.
    """

    def __init__(self, rng: np.random.Generator, count: int, names: Mapping[str, int]) -> None:
        self._numbers = rng.random((count, sum(names.values())))
        self._columns: dict[str, slice] = {}
        start = 0
        for name, width in names.items():
            self._columns[name] = slice(start, start + width)
            start += width

    def uniform(self, name: str) -> NDArray[np.float64]:
        """Return the numbers of a name as they are: (N, width), or (N,) for a single one."""
        columns = self._columns[name]
        if columns.stop - columns.start == 1:
            return self._numbers[:, columns.start]
        return self._numbers[:, columns]

    def happens(self, name: str, probability: float) -> NDArray[np.bool_]:
        """Return True (N,) with the given probability."""
        return self.uniform(name) < probability

    def between(
        self, name: str, low: float | np.ndarray, high: float | np.ndarray
    ) -> NDArray[np.float64]:
        """Return numbers uniform between ``low`` and ``high``."""
        return low + self.uniform(name) * (high - low)

    def integers(self, name: str, low: int, high: int) -> NDArray[np.int64]:
        """Return integers from ``low`` to ``high - 1``, all equally likely."""
        return low + (self.uniform(name) * (high - low)).astype(np.int64)
