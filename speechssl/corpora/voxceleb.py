"""What VoxCeleb1 and VoxCeleb2 share: `idNNNNN/<video>/NNNNN.wav` anywhere below a root, and their
    counts.

Ids are those of the official lists, `idNNNNN/<video>/NNNNN.wav`, whatever the audio was converted
to: lists, embeddings and pseudo-labels fit copies in any format. Speakers id1NNNN are VoxCeleb1's,
id0NNNN VoxCeleb2's.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from speechssl.corpora.listing import Found
from speechssl.errors import UserError
from speechssl.threads import usable_cores

FORMATS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
"""Extensions looked for; of two copies of an utterance the earlier one here, which reads faster, is
taken.
"""

_SPEAKER, _FILE = re.compile(r"id\d{5}"), re.compile(r"\d{5}")


@dataclass(frozen=True, slots=True)
class Published:
    """A part of the corpus and what it holds when it is complete."""

    part: str
    speakers: int
    utterances: int

    def __str__(self) -> str:
        return f"{self.part} ({self.speakers:,} speakers, {self.utterances:,} utterances)"


def find(root: Path, number: int, jobs: int | None = None) -> dict[str, Found]:
    """Utterance id -> file, of the speakers of VoxCeleb1 (`number` 1) or VoxCeleb2 (2) below
    `root`.

    Raises UserError if there is none.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such directory; give the folder that VoxCeleb{number} was unpacked into"
        )
    folders = sorted(_speaker_folders(root, set()))
    first = "1" if number == 1 else "0"
    mine = [folder for folder in folders if os.path.basename(folder)[2] == first]
    files: dict[str, Found] = {}
    rank = {extension: place for place, extension in enumerate(FORMATS)}
    with ThreadPoolExecutor(max(1, jobs or min(32, 4 * usable_cores()))) as pool:
        for folder, names in zip(mine, pool.map(_utterances, mine), strict=True):
            speaker, below = os.path.basename(folder), os.path.relpath(folder, root)
            for video, stem, extension in names:
                name = f"{speaker}/{video}/{stem}.wav"
                earlier = files.get(name)
                if (
                    earlier is None
                    or rank[extension.lower()] < rank[os.path.splitext(earlier.path)[1].lower()]
                ):
                    path = os.path.join(below, video, stem + extension)
                    files[name] = Found(path, {"speaker": speaker})
    if not files:
        other = 3 - number
        seen = (
            f"; its speakers are VoxCeleb{other}'s (try voxceleb{other})"
            if folders and not mine
            else ""
        )
        raise UserError(
            f"{root}: no id{first}NNNN/<video>/NNNNN.wav (or flac, m4a ...) below it{seen}"
        )
    return files


def check_counts(
    root: Path, files: dict[str, Found], parts: Sequence[Published], partial: bool
) -> Published | None:
    """Which of `parts` this is, complete.

    Raises UserError if it is none, unless `partial`: then None, and a line on standard error.
    """
    speakers = len({item.labels["speaker"] for item in files.values()})
    for part in parts:
        if (speakers, len(files)) == (part.speakers, part.utterances):
            print(f"{root}: {part}: complete", file=sys.stderr)
            return part
    nearest = min(parts, key=lambda part: (abs(part.speakers - speakers), part.utterances))
    text = f"{root}: {speakers:,} speakers and {len(files):,} utterances found, where {nearest} is expected"
    if not partial:
        raise UserError(f"{text}; unpack what is missing, or go on with what is there: --partial")
    print(f"{text}: going on with what is there (--partial)", file=sys.stderr)
    return None


def _speaker_folders(folder: str | Path, seen: set[str]) -> Iterator[str]:
    """Folders named as speakers, at any depth; links are followed, but no folder is entered
    twice.
    """
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in _entries(folder):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if _SPEAKER.fullmatch(entry.name):
            yield entry.path
        else:
            yield from _speaker_folders(entry.path, seen)


def _utterances(folder: str) -> list[tuple[str, str, str]]:
    """(video, number, extension) of the audio of a speaker."""
    found = []
    for video in _entries(folder):
        if not video.is_dir():
            continue
        for entry in _entries(video.path):
            stem, extension = os.path.splitext(entry.name)
            if extension.lower() in FORMATS and _FILE.fullmatch(stem):
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
