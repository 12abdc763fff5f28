"""Resampling, such that an excerpt of a file has the samples that the whole file has there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from speechssl.audio.readers import Samples

_CONTEXT = 0.05  # seconds on each side of an excerpt for the resampler's filter


class Periods(NamedTuple):
    """How often the samples of two rates fall together.

    Attributes:
        source_period: samples of the source between two such places.
        period: samples of the result between them.
        context: of these periods on each side that the resampler's filter needs.
    """

    source_period: int
    period: int
    context: int


def periods(source_rate: int, rate: int) -> Periods:
    """Return how often the samples of two rates (Hz) fall together."""
    common = math.gcd(source_rate, rate)
    source_period = source_rate // common
    # The filter is as long as 0.05 s at the lower one of the two rates asks for.
    context = _CONTEXT * max(source_rate, source_rate * source_rate / rate)
    return Periods(source_period, rate // common, math.ceil(context / source_period))


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Which samples of a file to read, and which to keep after they are resampled.

    Attributes:
        first: first sample to read, at the file's own rate.
        count: number of samples to read, or None for all to the end.
        skip: resampled samples to leave out at the front (context for the filter).
        keep: resampled samples to keep, or None for all that follow.
    """

    first: int
    count: int | None
    skip: int
    keep: int | None

    @classmethod
    def plan(cls, source_rate: int, rate: int, start: float, stop: float | None) -> Excerpt:
        """Plan how to get the samples round(start * rate) to round(stop * rate) of a file.

        Args:
            source_rate: the file's own rate, Hz.
            rate: wanted rate, Hz.
            start: seconds.
            stop: seconds, or None for the end.

        Samples of both rates fall together every `source_period` samples of the source, which are
        `period` samples of the result. Reading begins and ends at such a place, so that the
        resampler puts its samples where it would put them in the whole file.
        """
        begin = round(start * rate)
        end = None if stop is None else max(begin + 1, round(stop * rate))
        length = None if end is None else end - begin
        if source_rate == rate:
            return cls(begin, length, 0, None)
        size = periods(source_rate, rate)
        first_period = max(0, begin // size.period - size.context)
        count = None
        if end is not None:
            last_period = math.ceil(end / size.period) + size.context
            count = (last_period - first_period) * size.source_period
        skip = begin - first_period * size.period
        return cls(first_period * size.source_period, count, skip, length)

    def cut(self, samples: Samples) -> Samples:
        """Return the samples (T,) of the excerpt from what was read and resampled."""
        stop = None if self.keep is None else self.skip + self.keep
        return samples[self.skip : stop]


def resample(samples: Samples, source_rate: int, rate: int) -> Samples:
    """Resample (T,) to about (T * rate / source_rate,) with soxr's HQ setting, as librosa does."""
    if source_rate == rate or not len(samples):
        return samples
    import soxr

    resampled: Samples = soxr.resample(samples, source_rate, rate, quality="HQ")
    return resampled.astype(np.float32, copy=False)
