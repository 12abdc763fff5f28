"""Utterances to embeddings, one after the other: pieces, batches, reading ahead, averages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from speechssl.audio.silence import is_silent
from speechssl.data.manifest import Utterance
from speechssl.embed import batches as batching
from speechssl.embed.batch_encoder import BatchEncoder
from speechssl.embed.batches import Failure, Matrix, Piece, Samples
from speechssl.errors import Unreadable
from speechssl.progress import progress as show_progress


class StreamSettings(NamedTuple):
    """How utterances are read and batched.

    Attributes:
        batch_seconds: padded seconds of audio encoded at once.
        max_seconds: longer utterances are embedded in equal pieces of at most this.
        readers: threads that read and decode files ahead.
        trusted_seconds: see `batches.durations`.
    """

    batch_seconds: float
    max_seconds: float
    readers: int
    trusted_seconds: float


def embed_stream(
    encoder: BatchEncoder,
    utterances: Sequence[Utterance],
    read: Callable[[Piece], Samples | Unreadable],
    settings: StreamSettings,
    *,
    done: Collection[str] = frozenset(),
    progress: bool | None = False,
) -> Iterator[tuple[int, float, Matrix | Failure]]:
    """Embed utterances in the order that is fastest: the longest first.

    Args:
        encoder: the model.
        utterances: what to embed.
        read: gives the samples of a piece.
        settings: how they are batched.
        done: ids that are not wanted again (`Embedder.stream`).
        progress: show a progress bar; None: as commands do (`speechssl.progress`).

    Yields:
        Index in `utterances`, its seconds, and its embedding (D,) float32 or the
        failure. Files without a readable header come first.
    """
    wanted = [utterance.id not in done for utterance in utterances]
    with show_progress(sum(wanted), "embed", "utt", show=progress) as count:
        pieces: list[Piece] = []
        lengths = batching.durations(utterances, settings.readers, settings.trusted_seconds)
        for index, seconds in enumerate(lengths):
            if not isinstance(seconds, Failure):
                pieces += batching.split(index, utterances[index], seconds, settings.max_seconds)
            elif wanted[index]:
                count(1)
                yield index, 0.0, seconds
        averages = batching.Averages(utterances)
        batches = _wanted_batches(pieces, wanted, settings.batch_seconds)
        for batch in batching.read_ahead(batches, read, settings.readers, encoder.sample_rate):
            for piece, samples, vector in _vectors(encoder, batch):
                if not wanted[piece.index]:
                    continue
                result = averages.add(piece, samples, vector)
                if result is not None:
                    count(1)
                    yield piece.index, piece.seconds * piece.pieces, result


def _wanted_batches(
    pieces: Sequence[Piece], wanted: Sequence[bool], batch_seconds: float
) -> list[list[Piece]]:
    """Return those batches of all pieces that hold a piece of a wanted utterance."""
    kept = []
    for batch in batching.make_batches(pieces, batch_seconds):
        if any(wanted[piece.index] for piece in batch):
            kept.append(batch)
    return kept


def _vectors(
    encoder: BatchEncoder, batch: Sequence[tuple[Piece, Samples | Unreadable]]
) -> Iterator[tuple[Piece, int, Matrix | Unreadable | None]]:
    """Yield each piece, its samples, and its vector (D,); None for a silent one."""
    audible = []
    for _piece, wave in batch:
        if not isinstance(wave, Unreadable) and len(wave) and not is_silent(wave):
            audible.append(wave)
    vectors = iter(encoder.encode(audible))
    for piece, wave in batch:
        if isinstance(wave, Unreadable):
            yield piece, 0, wave
        elif not len(wave) or is_silent(wave):
            yield piece, 0, None
        else:
            yield piece, len(wave), next(vectors)
