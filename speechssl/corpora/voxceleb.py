"""What VoxCeleb1 and VoxCeleb2 share: their layout `idNNNNN/<video>/NNNNN.wav`, and their counts.

Speakers' folders may lie at any depth below a root. Ids are those of the official
lists, `idNNNNN/<video>/NNNNN.wav`, whatever the audio was converted to: lists,
embeddings and pseudo-labels fit copies in any format. Speakers id1NNNN are VoxCeleb1's,
id0NNNN VoxCeleb2's.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.corpora.listing import Found
from speechssl.corpora.partial import refuse_unless_partial
from speechssl.errors import UserError
from speechssl.pools import ThreadPool
from speechssl.threads import usable_cores

FORMATS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
"""Extensions that are looked for, in order of preference: the first ones are read faster."""

_SPEAKER = re.compile(r"id\d{5}")
_NUMBER = re.compile(r"\d{5}")


@dataclass(frozen=True, slots=True)
class Published:
    """A part of the corpus and what it holds when it is complete."""

    part: str
    speakers: int
    utterances: int

    def __str__(self) -> str:
        return f"{self.part} ({self.speakers:,} speakers, {self.utterances:,} utterances)"


def find(root: Path, number: int, jobs: int | None = None) -> dict[str, Found]:
    """Return utterance id -> file of one of the two corpora.

    Of two copies of an utterance, the one in the better format (`FORMATS`) is taken.

    Args:
        root: speakers' folders may lie at any depth below it.
        number: 1 for VoxCeleb1, 2 for VoxCeleb2.
        jobs: threads that list folders; None: four a core, at most 32.

    Raises:
        UserError: there is no such folder, or no utterance below it.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such directory; give the folder that VoxCeleb{number} was unpacked into"
        )
    all_folders = sorted(_speaker_folders(root, set()))
    digit = "1" if number == 1 else "0"
    folders = [folder for folder in all_folders if os.path.basename(folder)[2] == digit]
    files: dict[str, Found] = {}
    with ThreadPool(max(1, jobs or min(32, 4 * usable_cores()))) as pool:
        for folder, utterances in zip(folders, pool.map(_utterances, folders), strict=True):
            speaker = os.path.basename(folder)
            below_root = os.path.relpath(folder, root)
            for video, stem, extension in utterances:
                name = f"{speaker}/{video}/{stem}.wav"
                path = os.path.join(below_root, video, stem + extension)
                if name not in files or _preference(path) < _preference(files[name].path):
                    files[name] = Found(path, {"speaker": speaker})
    if not files:
        hint = f"; give the folder that VoxCeleb{number} was unpacked into"
        if all_folders and not folders:
            other = 3 - number
            hint = f"; its speakers are VoxCeleb{other}'s (try voxceleb{other})"
        raise UserError(
            f"{root}: no id{digit}NNNN/<video>/NNNNN.wav (or flac, m4a ...) below it{hint}"
        )
    return files


def _preference(path: str) -> int:
    """Return the place of a file's format in `FORMATS`."""
    return FORMATS.index(os.path.splitext(path)[1].lower())


def check_counts(
    root: Path, files: Mapping[str, Found], parts: Sequence[Published], partial: bool
) -> Published | None:
    """Return which part of the corpus this is, complete.

    Args:
        root: where it is.
        files: utterance id -> file.
        parts: what it may be.
        partial: accept a corpus that is none of them.

    Returns:
        The part; None if it is none of them, which is printed on standard error.

    Raises:
        UserError: it is none of them, unless `partial`.
    """
    speakers = len({file.labels["speaker"] for file in files.values()})
    for part in parts:
        if speakers == part.speakers and len(files) == part.utterances:
            print(f"{root}: {part}: complete", file=sys.stderr)
            return part
    nearest = min(parts, key=lambda part: (abs(part.speakers - speakers), part.utterances))
    difference = (
        f"{root}: {speakers:,} speakers and {len(files):,} utterances found, where {nearest} is"
        " expected"
    )
    refuse_unless_partial(
        difference,
        remedy="unpack what is missing, or go on with what is there",
        partial=partial,
        consequence=": going on with what is there",
    )
    return None


def _speaker_folders(folder: str | Path, visited: set[str]) -> Iterator[str]:
    """Yield the folders named as speakers, at any depth.

    Links are followed, but no folder is entered twice.
    """
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    for entry in _entries(folder):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if _SPEAKER.fullmatch(entry.name):
            yield entry.path
        else:
            yield from _speaker_folders(entry.path, visited)


def _utterances(folder: str) -> list[tuple[str, str, str]]:
    """Return (video, number, extension) of each audio file of a speaker."""
    found = []
    for video in _entries(folder):
        if not video.is_dir():
            continue
        for entry in _entries(video.path):
            stem, extension = os.path.splitext(entry.name)
            if extension.lower() in FORMATS and _NUMBER.fullmatch(stem):
                found.append((video.name, stem, extension))
    return found


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); make it readable"
        ) from error
