"""What is known of a trial beside its score: quality measures (Thienpondt et al. 2021).

* **Length**: short recordings score lower, whoever speaks.
* **Band**: of a telephone recording beside a wide-band one of the same speaker, as of two telephone
  recordings of strangers, the score means something else than of two wide-band ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.audio import bandwidth, reading
from speechssl.audio.readers import Samples
from speechssl.data.manifest import Utterance
from speechssl.embed.arrays import mono_wave
from speechssl.embed.recordings import Recording
from speechssl.pools import map_ahead
from speechssl.threads import usable_cores

ASSUMED = 3.0
"""Seconds of a recording whose length is not known."""

_SHORTEST, _LONGEST = 0.25, 10.0  # seconds between which the length of a recording counts

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """What is known of T trials, or of one.

    Attributes:
        seconds: (T,) or one number, the length of the shorter side; None: not known.
        narrow: of the one side and of the other, (T,) or one number: the share of its recordings that are
            of a narrow band (0 or 1 where it has one); None: not known, as if all were wide.
    """

    seconds: ArrayLike | None = None
    narrow: tuple[ArrayLike, ArrayLike] | None = None

    def log_length(self) -> Vector:
        """Return the logarithm of the lengths over `ASSUMED`, within the bounds where a length counts."""
        if self.seconds is None:
            return np.zeros(())
        bounded = np.clip(np.asarray(self.seconds, np.float64), _SHORTEST, _LONGEST)
        logarithms: Vector = np.log(bounded / ASSUMED)
        return logarithms

    def one_narrow(self) -> Vector:
        """Return the share of the pairs of recordings of which one is narrow, and the other wide."""
        one, other = self._shares()
        share: Vector = one * (1 - other) + other * (1 - one)
        return share

    def both_narrow(self) -> Vector:
        """Return the share of the pairs of recordings which are both narrow."""
        one, other = self._shares()
        return one * other

    def _shares(self) -> tuple[Vector, Vector]:
        one, other = self.narrow or (0.0, 0.0)
        return np.asarray(one, np.float64), np.asarray(other, np.float64)


def seconds_of(recording: Recording) -> float:
    """Return the length of a recording.

    Raises:
        UserError: it cannot be read.
    """
    if recording.samples is None:
        return reading.info(recording.file).seconds
    return len(_wave(recording)) / bandwidth.RATE


def is_narrow(recording: Recording) -> bool:
    """Return whether a recording is of a narrow band.

    Raises:
        UserError: it cannot be read.
    """
    if recording.samples is None:
        return bandwidth.is_narrow(recording.file, channel=recording.channel)
    return bandwidth.has_narrow_band(_wave(recording))


def _wave(recording: Recording) -> Samples:
    """Return the samples (T,) of an array at `bandwidth.RATE`."""
    rate = recording.sample_rate
    return mono_wave(recording.samples, rate, bandwidth.RATE, "array", recording.channel)


def are_narrow(utterances: Sequence[Utterance]) -> list[bool]:
    """Return for each utterance whether it is of a narrow band.

    Raises:
        UserError: one cannot be read.
    """

    def narrow(one: Utterance) -> bool:
        return bandwidth.is_narrow(one.path, one.start, one.stop, one.channel)

    return list(map_ahead(narrow, utterances, usable_cores()))
