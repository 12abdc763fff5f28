"""What is encoded together: pieces of utterances, sorted by length, batched by seconds, read
ahead.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.audio import reading
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError

Samples = npt.NDArray[np.float32]

SILENCE = (
    1e-4  # samples that span less than this (full scale is 2), 3 steps of 16 bits, say nothing
)
_STEPS = 8  # bucket edges an octave
_AHEAD = 3  # batches being read while one is encoded


@dataclass(frozen=True, slots=True)
class Failure:
    """An utterance that could not be embedded, and why (one line)."""

    id: str
    path: str
    reason: str

    @classmethod
    def of(cls, utterance: Utterance, reason: str) -> Failure:
        """Keep what `reason` adds to the path."""
        path = str(utterance.path)
        return cls(utterance.id, path, " ".join(reason.removeprefix(f"{path}: ").split()))


@dataclass(frozen=True, slots=True)
class Piece:
    """Seconds `start` to `stop` (None: the end) of a file, one of `pieces` that make up utterance
    `index`.
    """

    index: int
    pieces: int
    path: str
    start: float
    stop: float | None
    seconds: float


def bucket(seconds: float) -> float:
    """The upper edge of the length bucket of `seconds`: at most 9 % longer (eight buckets an
    octave).
    """
    return float(2.0 ** (math.ceil(_STEPS * math.log2(max(seconds, 0.1)) - 1e-9) / _STEPS))


def durations(utterances: Sequence[Utterance], readers: int) -> list[float | Failure]:
    """Seconds of each utterance, from its manifest or else from the header of its file (in
    threads).
    """

    def duration(utterance: Utterance) -> float | Failure:
        if utterance.seconds:
            return utterance.seconds
        try:
            return reading.info(utterance.path).seconds - utterance.start
        except (UserError, OSError, ValueError, RuntimeError) as error:
            return Failure.of(utterance, str(error))

    with ThreadPoolExecutor(readers) as pool:
        return list(pool.map(duration, utterances))


def cut(index: int, utterance: Utterance, seconds: float, max_seconds: float) -> list[Piece]:
    """`utterance` in as few pieces of equal length as are no longer than `max_seconds`."""
    count = max(1, math.ceil(seconds / max_seconds - 1e-6))
    edges = [utterance.start + seconds * k / count for k in range(count)]
    stops = [*edges[1:], utterance.stop]
    return [
        Piece(index, count, utterance.path, start, stop, seconds / count)
        for start, stop in zip(edges, stops, strict=True)
    ]


def batches(pieces: Iterable[Piece], batch_seconds: float, *, by_bucket: bool) -> list[list[Piece]]:
    """Pieces, longest first, in batches of at most `batch_seconds` padded seconds (but at least one
    piece).

    Neighbours are about equally long, so little is padded. `by_bucket`: no batch spans two buckets,
    and batches are counted as if padded to the bucket's edge, so that full batches of a bucket have
    one shape.
    """
    out: list[list[Piece]] = []
    edge = 0.0
    for piece in sorted(pieces, key=lambda p: (-p.seconds, p.index, p.start)):
        length = bucket(piece.seconds) if by_bucket else piece.seconds
        same = not by_bucket or length == edge
        if out and same and (len(out[-1]) + 1) * edge <= batch_seconds:
            out[-1].append(piece)
        else:
            out.append([piece])
            edge = max(length, 0.1)
    return out


def read(piece: Piece, rate: int) -> Samples | str:
    """Samples (T,) of a piece at `rate` Hz, or the reason why there are none."""
    try:
        return reading.read(piece.path, rate, piece.start, piece.stop)
    except (UserError, OSError, ValueError, RuntimeError, MemoryError) as error:
        return str(error) or type(error).__name__


def read_ahead(
    planned: Sequence[list[Piece]], load: Callable[[Piece], Samples | str], readers: int
) -> Iterator[list[tuple[Piece, Samples | str]]]:
    """Each batch with its samples, while `readers` threads read the next few (decoders release the
    GIL).
    """
    waiting: deque[list[tuple[Piece, Future[Samples | str]]]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        try:
            for batch in planned:
                waiting.append([(piece, pool.submit(load, piece)) for piece in batch])
                if len(waiting) > _AHEAD:
                    yield [(piece, future.result()) for piece, future in waiting.popleft()]
            while waiting:
                yield [(piece, future.result()) for piece, future in waiting.popleft()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Averages:
    """Puts the pieces of utterances together: the mean of their vectors, weighted by their
    samples.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances
        self._open: dict[int, _Sum] = {}

    def add(
        self, piece: Piece, samples: int, vector: Samples | str | None
    ) -> Samples | Failure | None:
        """Take the vector (D,) of a piece, or the reason why it failed, or None for silence.

        Returns:
            The utterance's embedding (D,) or failure once its last piece is there, None before.
        """
        total = self._open.setdefault(piece.index, _Sum(piece.pieces))
        total.left -= 1
        if isinstance(vector, str):
            total.reason = vector
        elif vector is not None and not np.isfinite(vector).all():
            total.reason = "the model gives NaN or infinity for it; check the model"
        elif vector is not None:
            total.vector = total.vector + samples * vector.astype(np.float64)
            total.samples += samples
        if total.left:
            return None
        del self._open[piece.index]
        utterance = self.utterances[piece.index]
        if total.reason:
            return Failure.of(utterance, total.reason)
        if not total.samples:
            return Failure.of(
                utterance, "is silent (all its samples are the same); remove or replace it"
            )
        return np.asarray(total.vector / total.samples, dtype=np.float32)


class _Sum:
    def __init__(self, pieces: int) -> None:
        self.left, self.samples, self.reason = pieces, 0, ""
        self.vector: npt.NDArray[np.float64] | float = 0.0


def is_silent(samples: Samples) -> bool:
    """Whether the samples span less than `SILENCE` (a constant offset is silence too)."""
    return bool(samples.max() - samples.min() < SILENCE)
