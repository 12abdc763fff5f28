"""Speech of recordings: looked for by threads, while what was found before is embedded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from speechssl.data.manifest import Utterance
from speechssl.embed.batches import Failure, Matrix
from speechssl.embed.cutting import Cutting, cut, speech_of
from speechssl.embed.embedder import Embedder
from speechssl.embed.gather import gather
from speechssl.progress import progress as show_progress

CHUNK = 256
"""Recordings whose speech is known before the first of them is embedded."""


def stream_speech(
    embedder: Embedder,
    recordings: Sequence[Utterance],
    vad: str,
    *,
    done: Collection[str] = frozenset(),
    progress: bool | None = False,
) -> Iterator[tuple[int, float, Matrix | Failure]]:
    """Embed the speech of recordings, a chunk after the other; see `Embedder.stream`.

    While a chunk is embedded, threads look for the speech of the next one. Chunks follow from the
    list alone, and one that holds a wanted recording is embedded as a whole: what was interrupted
    ends in the same bits.

    Args:
        embedder: the model; as many threads as it has readers look for speech.
        recordings: what to embed.
        vad: which part of `vad/` finds the speech.
        done: ids that are not wanted again.
        progress: as for `Embedder.stream`.
    """
    chunks = []
    for first in range(0, len(recordings), CHUNK):
        chunk = recordings[first : first + CHUNK]
        if any(recording.id not in done for recording in chunk):
            chunks.append((first, chunk))
    looked_at = (one for _, chunk in chunks for one in chunk)
    found = speech_of(looked_at, vad, embedder.readers, ahead=CHUNK)
    wanted = sum(recording.id not in done for recording in recordings)
    with show_progress(wanted, "embed", "utt", show=progress) as count:
        for first, chunk in chunks:
            utterances: list[Utterance] = []
            places: list[int] = []
            for place, spans in enumerate(islice(found, len(chunk))):
                if not isinstance(spans, Failure):
                    utterances.append(replace(chunk[place], speech=tuple(spans)))
                    places.append(first + place)
                elif chunk[place].id not in done:
                    count(1)
                    yield first + place, 0.0, spans
            for index, seconds, result in embedder.stream(utterances, done=done):
                count(1)
                yield places[index], seconds, result


def gather_speech(
    embedder: Embedder, recordings: Sequence[Utterance], vad: str | None
) -> tuple[list[Utterance], npt.NDArray[np.float32], list[Failure]]:
    """Embed the speech of recordings in memory; see `gather`.

    Args:
        embedder: the model.
        recordings: what to embed.
        vad: which part of `vad/` finds the speech, which alone counts; None: all counts.
    """
    listened = cut(recordings, Cutting(vad=vad), embedder.readers)
    kept, matrix, unreadable = gather(embedder, listened.utterances)
    return kept, matrix, listened.failures + unreadable
