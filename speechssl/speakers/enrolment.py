"""Enrolment: the voice of each recording of a folder, a Kaldi directory or a list of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Utterance
from speechssl.embed.batches import Failure, none_usable
from speechssl.embed.cutting import warn_of_mixing
from speechssl.embed.embedder import Embedder
from speechssl.embed.sources import collect
from speechssl.embed.speech import gather_speech
from speechssl.errors import UserError
from speechssl.speakers.model_digest import digest
from speechssl.speakers.quality import are_narrow
from speechssl.speakers.voices import Voices, make


def register(
    embedder: Embedder,
    inputs: Sequence[str | Path],
    *,
    name: str | None = None,
    speakers: Path | None = None,
    vad: str | None = None,
) -> tuple[Voices, list[Failure]]:
    """Enrol voices from recordings.

    Args:
        embedder: the model.
        inputs: as for `speechssl embed`: files, folders, wav.scp files, Kaldi directories.
        name: the voice of all recordings. None: `speakers` says it; or else the utt2spk of a
            Kaldi directory, or the first folder below an input, or the file's name without its
            ending.
        speakers: a table `recording voice` by id.
        vad: which part of `vad/` finds the speech, which alone counts; None: all counts.

    Returns:
        The voices, and what could not be used.

    Raises:
        UserError: no recording can be used, or one has no voice.
    """
    utterances, failed = collect(list(inputs))
    warn_of_mixing(utterances)
    voice_of = _voices_of(utterances, inputs, name, speakers)
    kept, matrix, unreadable = gather_speech(embedder, utterances, vad)
    failed += unreadable
    if not kept:
        raise none_usable("register", failed)
    voices = make(
        [voice_of[utterance.id] for utterance in kept],
        [utterance.id for utterance in kept],
        matrix,
        digest(embedder.model, embedder.layer),
        are_narrow(kept),
    )
    return voices, failed


def _voices_of(
    utterances: Sequence[Utterance],
    inputs: Sequence[str | Path],
    name: str | None,
    speakers: Path | None,
) -> Mapping[str, str]:
    """Return recording -> voice."""
    if name is not None:
        return {utterance.id: name for utterance in utterances}
    known: dict[str, str] = {}
    if speakers is not None:
        if not speakers.exists():
            raise UserError(f"{speakers}: no such file; give lines `recording voice`")
        known = read_mapping(speakers)
    else:
        for place in inputs:
            table = Path(place) / "utt2spk"
            if table.is_file():
                known.update(read_mapping(table))
    voice_of = {}
    for utterance in utterances:
        voice = known.get(utterance.id)
        if voice is None and speakers is not None:
            raise UserError(f"{speakers}: has no voice of {utterance.id!r}; add a line for it")
        voice_of[utterance.id] = voice or _from_path(utterance.id)
    return voice_of


def _from_path(identifier: str) -> str:
    """Return the first folder of a path, or the name of a file that lies in none."""
    path = PurePosixPath(identifier)
    return path.parts[0] if len(path.parts) > 1 else path.stem
