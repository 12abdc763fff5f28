"""Pieces of utterances: how they are cut, batched by length, read ahead and put together again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from speechssl.audio import reading
from speechssl.data.manifest import Utterance
from speechssl.errors import Unreadable, UserError
from speechssl.pools import ThreadPool, map_ahead

Samples = npt.NDArray[np.float32]
"""(T,) samples in -1..1."""

Matrix: TypeAlias = npt.NDArray[np.float32]
"""(N, D) embeddings, or (D,), one of them."""

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


def none_usable(verb: str, failures: Sequence[Failure]) -> UserError:
    """Return the error of a verb all of whose recordings, one at least, have failed."""
    first = failures[0]
    return UserError(
        f"{verb}: none of {len(failures)} recordings can be used; the first: {first.path}:"
        f" {first.reason}"
    )


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
        channel: which channel, from 1; None: the mean of all.
        speech: spans of the file (start, stop), seconds, that are kept; None: all is.
    """

    index: int
    pieces: int
    path: str
    start: float
    stop: float | None
    seconds: float
    channel: int | None = None
    speech: tuple[tuple[float, float], ...] | None = None


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

    def is_trusted(utterance: Utterance) -> bool:
        return 0 < utterance.seconds <= trusted_seconds

    def duration(utterance: Utterance) -> float | Failure:
        stated = utterance.seconds
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

    others = (utterance for utterance in utterances if not is_trusted(utterance))
    read = map_ahead(duration, others, readers)
    return [one.seconds if is_trusted(one) else next(read) for one in utterances]


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
        pieces.append(
            Piece(
                index,
                count,
                utterance.path,
                start,
                stop,
                seconds / count,
                utterance.channel,
                utterance.speech,
            )
        )
    return pieces


def bucket_edge(seconds: float) -> float:
    """Return the upper edge of the length bucket of `seconds`, at most 9 % above it.

    Edges lie at eight an octave. Batches are padded to an edge: in bfloat16 on a CPU each
    new shape costs a set-up, and in float32 memory that was freed by one shape does not fit
    the next: 1,500 files of 2 to 6 s left 670 MB, in buckets 420, at the same speed.
    """
    octaves = math.log2(max(seconds, MIN_SECONDS))
    edge = math.ceil(_BUCKETS_PER_OCTAVE * octaves - 1e-9)
    return float(2.0 ** (edge / _BUCKETS_PER_OCTAVE))


def make_batches(pieces: Iterable[Piece], batch_seconds: float) -> list[list[Piece]]:
    """Sort pieces by length, longest first, and fill batches of one bucket of lengths each.

    Each piece counts with the length of its bucket, so the full batches of a bucket have
    one shape.

    Args:
        pieces: in any order; the batches do not depend on it.
        batch_seconds: padded seconds that a batch may hold; it holds one piece at
            least.
    """
    batches: list[list[Piece]] = []
    padded_seconds = 0.0  # of each piece of the last batch
    for piece in sorted(pieces, key=lambda p: (-p.seconds, p.index, p.start)):
        length = max(bucket_edge(piece.seconds), MIN_SECONDS)
        shares_bucket = length == padded_seconds
        if batches and shares_bucket and (len(batches[-1]) + 1) * padded_seconds <= batch_seconds:
            batches[-1].append(piece)
        else:
            batches.append([piece])
            padded_seconds = length
    return batches


def read_piece(piece: Piece, sample_rate: int) -> Samples | Unreadable:
    """Return samples (T,) of a piece at `sample_rate` Hz, or why it cannot be read.

    There are none, (0,), if no speech of the utterance lies in it.
    """
    try:
        samples = reading.read(piece.path, sample_rate, piece.start, piece.stop, piece.channel)
    except (UserError, OSError, ValueError, RuntimeError, MemoryError) as error:
        return Unreadable(piece.path, str(error) or type(error).__name__)
    return speech_of(piece, samples, sample_rate)


def speech_of(piece: Piece, samples: Samples, sample_rate: int) -> Samples:
    """Return what of a piece's samples (T,) is speech, joined (T',)."""
    if piece.speech is None:
        return samples
    kept = [np.zeros(0, np.float32)]
    for start, stop in piece.speech:
        first = max(0, round((start - piece.start) * sample_rate))
        last = max(0, round((stop - piece.start) * sample_rate))
        kept.append(samples[first:last])
    return np.concatenate(kept)


def runs(batch: Sequence[Piece]) -> list[list[Piece]]:
    """Group the consecutive pieces of a batch that overlap or touch in a file, as windows do."""
    grouped: list[list[Piece]] = []
    for piece in batch:
        before = grouped[-1][-1] if grouped else None
        if (
            before is not None
            and before.stop is not None
            and piece.stop is not None
            and (piece.path, piece.channel) == (before.path, before.channel)
            and before.start <= piece.start <= before.stop <= piece.stop
        ):
            grouped[-1].append(piece)
        else:
            grouped.append([piece])
    return grouped


def read_run(
    run: Sequence[Piece], read: Callable[[Piece], Samples | Unreadable], sample_rate: int
) -> list[Samples | Unreadable]:
    """Return the samples of pieces that overlap or touch; the file is read once for all of them.

    Args:
        run: one of `runs`.
        read: gives the samples of a piece.
        sample_rate: Hz.
    """
    if len(run) == 1:
        return [read(run[0])]
    span = replace(run[0], stop=run[-1].stop, speech=None)
    samples = read(span)
    if isinstance(samples, Unreadable):
        return [read(piece) for piece in run]  # a damaged place is no matter to those beside it
    offset = round(span.start * sample_rate)
    pieces: list[Samples | Unreadable] = []
    for piece in run:
        first = round(piece.start * sample_rate) - offset
        last = round((piece.stop or 0.0) * sample_rate) - offset
        cut = samples[first:last]
        pieces.append(speech_of(piece, cut, sample_rate) if len(cut) else read(piece))
    return pieces


def read_ahead(
    batches: Sequence[Sequence[Piece]],
    read: Callable[[Piece], Samples | Unreadable],
    readers: int,
    sample_rate: int,
) -> Iterator[list[tuple[Piece, Samples | Unreadable]]]:
    """Yield each batch with its samples, while threads read the next three.

    Decoders release the interpreter's lock, so threads are enough.

    Args:
        batches: in the order in which they are encoded.
        read: gives the samples of a piece.
        readers: number of threads.
        sample_rate: of the samples, Hz.
    """
    waiting: deque[list[tuple[list[Piece], Future[list[Samples | Unreadable]]]]] = deque()
    with ThreadPool(readers) as pool:
        try:
            for batch in batches:
                reads = []
                for run in runs(batch):
                    reads.append((run, pool.submit(read_run, run, read, sample_rate)))
                waiting.append(reads)
                if len(waiting) > _BATCHES_AHEAD:
                    yield _results(waiting.popleft())
            while waiting:
                yield _results(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _results(
    reads: Sequence[tuple[list[Piece], Future[list[Samples | Unreadable]]]],
) -> list[tuple[Piece, Samples | Unreadable]]:
    results: list[tuple[Piece, Samples | Unreadable]] = []
    for run, future in reads:
        results += zip(run, future.result(), strict=True)
    return results


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
            if utterance.speech is not None:
                reason = "its speech is silent; leave out --vad, or remove it"
            return Failure.of(utterance, reason)
        return np.asarray(total.vector / total.samples, dtype=np.float32)


@dataclass
class _Sum:
    """The pieces of an utterance so far."""

    missing: int
    samples: int = 0
    vector: npt.NDArray[np.float64] | float = 0.0
    failure: str = ""
