"""Pieces of utterances: how they are cut, batched by length, read ahead and put together again."""

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
from speechssl.errors import Unreadable, UserError

Samples = npt.NDArray[np.float32]

MIN_SECONDS = 0.1
"""What is shorter is repeated cyclically to this length."""

_BUCKETS_PER_OCTAVE = 8
_BATCHES_AHEAD = 3  # batches being read while one is encoded


@dataclass(frozen=True, slots=True)
class Failure:
    """An utterance that could not be embedded.

    Attributes:
        id: of the utterance.
        path: its file.
        reason: one line.
    """

    id: str
    path: str
    reason: str

    @classmethod
    def of(cls, utterance: Utterance, reason: str) -> Failure:
        """Return the failure of an utterance; the path is not repeated in the reason."""
        path = str(utterance.path)
        words = reason.removeprefix(f"{path}: ").split()
        return cls(utterance.id, path, " ".join(words))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an utterance that is encoded at once.

    Attributes:
        index: of the utterance in the list that is embedded.
        pieces: number of pieces of that utterance.
        path: its file.
        start: where the piece begins in the file, seconds.
        stop: where it ends, or None for the end of the file.
        seconds: its length.
    """

    index: int
    pieces: int
    path: str
    start: float
    stop: float | None
    seconds: float


def durations(
    utterances: Sequence[Utterance], readers: int, trusted_seconds: float = math.inf
) -> list[float | Failure]:
    """Return the seconds of each utterance, or why they are unknown.

    They come from the manifest or else from the header of the file.

    Args:
        utterances: what is embedded.
        readers: threads that read headers.
        trusted_seconds: a manifest that says more is compared with the header: a wrong
            utt2dur could ask for any number of pieces.
    """

    def duration(utterance: Utterance) -> float | Failure:
        stated = utterance.seconds
        if stated and stated <= trusted_seconds:
            return stated
        try:
            found = reading.info(utterance.path).seconds - utterance.start
        except (UserError, OSError, ValueError, RuntimeError) as error:
            return Failure.of(utterance, str(error))
        if not stated:
            return found
        if stated > found + trusted_seconds:
            reason = (
                f"lasts {found:.2f} s, not {stated:g} s as utt2dur or segments say; correct them"
            )
            return Failure.of(utterance, reason)
        return stated

    with ThreadPoolExecutor(readers) as pool:
        return list(pool.map(duration, utterances))


def split(index: int, utterance: Utterance, seconds: float, max_seconds: float) -> list[Piece]:
    """Split an utterance into the fewest pieces of equal length that `max_seconds` allows.

    Args:
        index: of the utterance in the list that is embedded.
        utterance: what to split.
        seconds: its length.
        max_seconds: greatest length of a piece.
    """
    count = max(1, math.ceil(seconds / max_seconds - 1e-6))
    starts = [utterance.start + seconds * number / count for number in range(count)]
    stops = [*starts[1:], utterance.stop]
    pieces = []
    for start, stop in zip(starts, stops, strict=True):
        pieces.append(Piece(index, count, utterance.path, start, stop, seconds / count))
    return pieces


def bucket_edge(seconds: float) -> float:
    """Return the upper edge of the length bucket of `seconds`, at most 9 % above it.

    Edges lie at eight an octave. In bfloat16 on a CPU each new shape costs a set-up, so
    batches are padded to an edge.
    """
    octaves = math.log2(max(seconds, MIN_SECONDS))
    edge = math.ceil(_BUCKETS_PER_OCTAVE * octaves - 1e-9)
    return float(2.0 ** (edge / _BUCKETS_PER_OCTAVE))


def make_batches(
    pieces: Iterable[Piece], batch_seconds: float, *, by_bucket: bool
) -> list[list[Piece]]:
    """Sort pieces by length, longest first, and fill batches: neighbours need little padding.

    Args:
        pieces: in any order; the batches do not depend on it.
        batch_seconds: padded seconds that a batch may hold; it holds one piece at
            least.
        by_bucket: let no batch span two buckets, and count each piece with the length
            of its bucket, so that the full batches of a bucket have one shape.
    """
    batches: list[list[Piece]] = []
    padded_seconds = 0.0  # of each piece of the last batch
    for piece in sorted(pieces, key=lambda p: (-p.seconds, p.index, p.start)):
        length = bucket_edge(piece.seconds) if by_bucket else piece.seconds
        shares_bucket = not by_bucket or length == padded_seconds
        if batches and shares_bucket and (len(batches[-1]) + 1) * padded_seconds <= batch_seconds:
            batches[-1].append(piece)
        else:
            batches.append([piece])
            padded_seconds = max(length, MIN_SECONDS)
    return batches


def read_piece(piece: Piece, sample_rate: int) -> Samples | Unreadable:
    """Return samples (T,) of a piece at `sample_rate` Hz, or why it cannot be read."""
    try:
        return reading.read(piece.path, sample_rate, piece.start, piece.stop)
    except (UserError, OSError, ValueError, RuntimeError, MemoryError) as error:
        return Unreadable(piece.path, str(error) or type(error).__name__)


def read_ahead(
    batches: Sequence[Sequence[Piece]],
    read: Callable[[Piece], Samples | Unreadable],
    readers: int,
) -> Iterator[list[tuple[Piece, Samples | Unreadable]]]:
    """Yield each batch with its samples, while threads read the next three.

    Decoders release the interpreter's lock, so threads are enough.

    Args:
        batches: in the order in which they are encoded.
        read: gives the samples of a piece.
        readers: number of threads.
    """
    waiting: deque[list[tuple[Piece, Future[Samples | Unreadable]]]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        try:
            for batch in batches:
                waiting.append([(piece, pool.submit(read, piece)) for piece in batch])
                if len(waiting) > _BATCHES_AHEAD:
                    yield _results(waiting.popleft())
            while waiting:
                yield _results(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _results(
    batch: Sequence[tuple[Piece, Future[Samples | Unreadable]]],
) -> list[tuple[Piece, Samples | Unreadable]]:
    return [(piece, future.result()) for piece, future in batch]


class Averages:
    """Joins the pieces of utterances: the mean of their vectors, weighted by their samples.

    A silent piece has no weight. An utterance fails if one of its pieces does, or if
    all of them are silent.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances
        self._sums: dict[int, _Sum] = {}

    def add(
        self, piece: Piece, samples: int, vector: Samples | Unreadable | None
    ) -> Samples | Failure | None:
        """Add a piece.

        Args:
            piece: which one.
            samples: T, its weight.
            vector: its embedding (D,), or why there is none, or None if it is silent.

        Returns:
            The utterance's embedding (D,) or failure with its last piece, None before
            that.
        """
        total = self._sums.setdefault(piece.index, _Sum(missing=piece.pieces))
        total.missing -= 1
        if isinstance(vector, Unreadable):
            total.failure = vector.reason
        elif vector is not None and not np.isfinite(vector).all():
            total.failure = "the model gives NaN or infinity for it; check the model"
        elif vector is not None:
            total.vector = total.vector + samples * vector.astype(np.float64)
            total.samples += samples
        if total.missing:
            return None
        del self._sums[piece.index]
        utterance = self.utterances[piece.index]
        if total.failure:
            return Failure.of(utterance, total.failure)
        if not total.samples:
            reason = "is silent (all its samples are the same); remove or replace it"
            return Failure.of(utterance, reason)
        return np.asarray(total.vector / total.samples, dtype=np.float32)


@dataclass
class _Sum:
    """The pieces of an utterance so far."""

    missing: int
    samples: int = 0
    vector: npt.NDArray[np.float64] | float = 0.0
    failure: str = ""
