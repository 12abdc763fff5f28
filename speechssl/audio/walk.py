"""The one walk of a folder of audio."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from speechssl.audio.reading import EXTENSIONS


def audio_files(root: str | Path) -> Iterator[str]:
    """Yield the audio files below `root` as relative paths, a folder at a time.

    What counts is the ending (`EXTENSIONS`, in either case). Names that begin with a dot are passed
    over; links are followed, each folder is visited once. Sort the paths if their order matters.
    """
    visited = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            extension = os.path.splitext(name)[1].lower()
            if extension in EXTENSIONS and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)
