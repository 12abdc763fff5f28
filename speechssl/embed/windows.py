"""Windows that slide over a recording: where they lie, and a stream that embeds them as samples come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from speechssl.audio.silence import is_silent
from speechssl.audio.streaming import StreamResampler
from speechssl.embed.arrays import scaled
from speechssl.embed.batches import MIN_SECONDS, Samples
from speechssl.errors import UserError


class Windows(NamedTuple):
    """Embeddings of the windows of a recording, in the order of time.

    Attributes:
        starts: (N,) seconds from the beginning of the recording.
        stops: (N,) seconds.
        embeddings: (N, D) float32.
    """

    starts: npt.NDArray[np.float64]
    stops: npt.NDArray[np.float64]
    embeddings: npt.NDArray[np.float32]


class Encode(Protocol):
    """What a stream of windows needs of an `Embedder`."""

    batch_seconds: float

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the model, Hz."""
        ...

    @property
    def dim(self) -> int:
        """D, size of an embedding."""
        ...

    def encode(self, waves: Sequence[Samples]) -> npt.NDArray[np.float32]:
        """Return embeddings (B, D) of waves (T,) at `sample_rate` Hz."""
        ...


def check_window(window: float, hop: float) -> None:
    """Raise UserError unless windows of `window` seconds can be laid every `hop` seconds."""
    if not (window >= MIN_SECONDS and MIN_SECONDS / 10 <= hop <= 1e6 and window <= 1e6):
        raise UserError(
            f"window={window:g}, hop={hop:g}: give a window of at least {MIN_SECONDS:g} s and a hop"
            f" of at least {MIN_SECONDS / 10:g} s"
        )


def window_spans(start: float, stop: float, window: float, hop: float) -> list[tuple[float, float]]:
    """Return where windows lie, (start, stop) in seconds.

    They begin at `start` and every `hop` seconds after it, as long as they are whole. If more than
    0.1 s is left at the end, one more of the same length ends at `stop`. What is shorter than a
    window is one window.

    Args:
        start: of the recording or the segment, seconds.
        stop: its end, seconds.
        window: length of a window, seconds.
        hop: from one window to the next, seconds.
    """
    if stop - start <= window:
        return [(start, stop)]
    count = int((stop - start - window) / hop + 1e-9) + 1
    spans = [(start + index * hop, start + index * hop + window) for index in range(count)]
    if stop - spans[-1][1] > MIN_SECONDS:
        spans.append((stop - window, stop))
    return spans


class LiveWindows:
    """A stream: samples go in as they come, windows come out as soon as they are complete.

    Memory is that of one window and of what was just fed.

    Args:
        embedder: what encodes.
        sample_rate: of the samples that are fed, Hz.
        window: length of a window, seconds.
        hop: from one window to the next, seconds.
        start: time of the first sample, seconds.

    Raises:
        UserError: a window or hop that cannot be.
    """

    def __init__(
        self,
        embedder: Encode,
        sample_rate: int,
        *,
        window: float = 3.0,
        hop: float = 1.5,
        start: float = 0.0,
    ) -> None:
        check_window(window, hop)
        if not sample_rate > 0:
            raise UserError(f"live: sample_rate={sample_rate!r}; give the rate of the samples, Hz")
        self.embedder = embedder
        self.window = window
        self.hop = hop
        self.start = start
        self._rate = embedder.sample_rate
        self._size = round(window * self._rate)
        self._resampler = StreamResampler(sample_rate, self._rate)
        self._held = np.zeros(0, np.float32)
        self._held_from = 0  # index of the first sample that is held
        self._next = 0  # number of the next window
        self._covered = 0  # samples from the beginning that a window covers
        self._finished = False

    def feed(self, samples: npt.ArrayLike) -> Windows:
        """Take samples and return the windows that are complete now.

        Args:
            samples: (T,), floats in -1..1 or integers, such as int16 of a sound card.

        Raises:
            UserError: the samples are not (T,) finite numbers, or the stream was finished.
        """
        if self._finished:
            raise UserError("live: the stream is finished; begin another one")
        if isinstance(samples, bytes | bytearray | memoryview):
            raise UserError(
                "live: bytes do not say what they hold; give np.frombuffer(data, np.int16), or of"
                " another type"
            )
        wave = scaled(np.asarray(samples), "live").astype(np.float32)
        if wave.ndim != 1 or not np.isfinite(wave).all():
            raise UserError(
                f"live: samples of shape {wave.shape}; give (T,) finite numbers of one channel, or"
                " of the mean of the channels"
            )
        return self._take(self._resampler.feed(wave))

    def finish(self) -> Windows:
        """End the stream and return the windows that are left: the last one ends at the end."""
        found = [self._take(self._resampler.finish())]
        self._finished = True
        end = self._held_from + len(self._held)
        left = end - self._covered
        is_short = not self._covered and end
        if is_short or left > MIN_SECONDS * self._rate:
            first = max(0, end - self._size)
            found.append(self._embedded([(first, end)]))
        return joined(found)

    def _take(self, wave: Samples) -> Windows:
        self._held = np.concatenate([self._held, wave])
        end = self._held_from + len(self._held)
        complete = []
        while (first := round(self._next * self.hop * self._rate)) + self._size <= end:
            complete.append((first, first + self._size))
            self._next += 1
        found = self._embedded(complete)
        if complete:
            self._covered = complete[-1][1]
        # The next window, and the one that will end at the end, need what follows.
        keep_from = min(first, end - self._size)
        if keep_from > self._held_from:
            self._held = self._held[keep_from - self._held_from :]
            self._held_from = keep_from
        return found

    def _embedded(self, spans: Sequence[tuple[int, int]]) -> Windows:
        """Return the windows of spans (first and last sample) that are not silent."""
        audible = []
        waves = []
        for first, last in spans:
            wave = self._held[first - self._held_from : last - self._held_from]
            if not is_silent(wave):
                audible.append((first, last))
                waves.append(wave)
        vectors = [np.zeros((0, self.embedder.dim), np.float32)]
        size = max(1, int(self.embedder.batch_seconds / self.window))
        for begin in range(0, len(waves), size):
            vectors.append(self.embedder.encode(waves[begin : begin + size]))
        times = self.start + np.array(audible, np.float64).reshape(-1, 2) / self._rate
        return Windows(times[:, 0], times[:, 1], np.concatenate(vectors))


def joined(parts: Sequence[Windows]) -> Windows:
    """Return the windows of several parts of a recording as one."""
    return Windows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
