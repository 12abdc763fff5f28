"""A recording as a stream of blocks, in bounded memory, with the samples that reading it whole gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from speechssl.audio.opening import PathLike, open_audio
from speechssl.audio.readers import Samples
from speechssl.audio.reading import _refuse_missing_channel, _refuse_non_finite
from speechssl.audio.resampling import Excerpt, periods, resample

_LEAST = 0.1  # seconds that are resampled at a time, at least: the filter's context costs as much


class StreamResampler:
    """Resamples a signal that comes in parts of any size.

    What comes out, joined, is the whole signal resampled, as `reading.read` has it: each part is
    resampled with the filter's context on both sides, so it lags by about 0.05 s.

    Args:
        source_rate: sampling rate of what is fed, Hz.
        rate: wanted sampling rate, Hz.
    """

    def __init__(self, source_rate: int, rate: int) -> None:
        self.source_rate = source_rate
        self.rate = rate
        self._given = 0  # samples that came out
        self._held = np.zeros(0, np.float32)
        self._held_from = 0  # index, in what was fed, of the first sample that is held

    def feed(self, samples: Samples) -> Samples:
        """Take samples (T,) and return those (T',) that are now certain."""
        if self.source_rate == self.rate:
            return samples
        self._held = np.concatenate([self._held, samples])
        size = periods(self.source_rate, self.rate)
        complete = (self._held_from + len(self._held)) // size.source_period
        end = (complete - size.context) * size.period
        if end - self._given < _LEAST * self.rate:
            return np.zeros(0, np.float32)
        return self._resampled(end)

    def finish(self) -> Samples:
        """Return the samples (T',) that are left when the signal is over."""
        if not len(self._held):
            return np.zeros(0, np.float32)
        return self._resampled(None)

    def _resampled(self, end: int | None) -> Samples:
        stop = None if end is None else end / self.rate
        excerpt = Excerpt.plan(self.source_rate, self.rate, self._given / self.rate, stop)
        first = excerpt.first - self._held_from
        last = None if excerpt.count is None else first + excerpt.count
        result = excerpt.cut(resample(self._held[first:last], self.source_rate, self.rate))
        self._held = self._held[first:]
        self._held_from = excerpt.first
        self._given += len(result)
        return result


def blocks(
    path: PathLike,
    rate: int,
    start: float = 0.0,
    stop: float | None = None,
    channel: int | None = None,
) -> Iterator[Samples]:
    """Yield the samples that `reading.read` returns, in blocks (T,) of at most about a minute.

    The file is decoded once, from `start` on.

    Args:
        path: as for `reading.read`, and so are the others.
        rate: wanted sampling rate, Hz.
        start: seconds.
        stop: seconds, or None for the end.
        channel: which channel, from 1; None: the mean of all.

    Raises:
        UserError: the file cannot be read, has no such channel, or holds NaN.
    """
    with open_audio(path) as reader:
        _refuse_missing_channel(path, reader, channel)
        excerpt = Excerpt.plan(reader.rate, rate, start, stop)
        resampler = StreamResampler(reader.rate, rate)
        to_skip = excerpt.skip
        left = excerpt.keep
        decoded = _joined(reader.blocks(excerpt.first, excerpt.count, channel), reader.rate)
        for block in _resampled(decoded, resampler):
            _refuse_non_finite(path, block, start)
            wanted = block[to_skip:]
            to_skip -= min(to_skip, len(block))
            if left is not None:
                wanted = wanted[:left]
                left -= len(wanted)
            if len(wanted):
                yield wanted


def _resampled(source: Iterator[Samples], resampler: StreamResampler) -> Iterator[Samples]:
    for block in source:
        yield resampler.feed(block)
    yield resampler.finish()


def _joined(source: Iterator[Samples], size: int) -> Iterator[Samples]:
    """Join the small blocks of FFmpeg to blocks of `size` samples and more."""
    waiting: list[Samples] = []
    count = 0
    for block in source:
        waiting.append(block)
        count += len(block)
        if count >= size:
            yield np.concatenate(waiting)
            waiting = []
            count = 0
    if waiting:
        yield np.concatenate(waiting)
