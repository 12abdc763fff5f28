"""The one walk of a folder of audio."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.audio.kinds import LOOK, kind_of, not_audio
from speechssl.audio.reading import EXTENSIONS
from speechssl.errors import UserError
from speechssl.regular import first_bytes, is_special

HIDDEN = "hidden (its name begins with a dot)"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file or folder that a walk did not take for audio.

    Attributes:
        path: from the folder that was walked.
        reason: in a few words.
    """

    path: str
    reason: str


def audio_files(root: str | Path, passed_over: list[PassedOver] | None = None) -> Iterator[str]:
    """Yield the audio files below `root` as relative paths, a folder at a time.

    What counts is the ending (`EXTENSIONS`, in either case) or, where that says nothing, the first
    bytes of the file (`kinds.kind_of`): m4a, webm, wma, amr, mkv and the like by whatever name.
    Names that begin with a dot are passed over; links are followed, each folder is visited once.
    Sort the paths if their order matters.

    Args:
        root: the folder.
        passed_over: gets an entry for everything that is not yielded, with the reason.
    """
    left_out = [] if passed_over is None else passed_over

    def cannot_be_read(error: OSError) -> None:
        path = os.path.relpath(error.filename, root)
        left_out.append(PassedOver(path, f"cannot be read ({error.strerror})"))

    visited = set()
    for folder, subfolders, names in os.walk(root, onerror=cannot_be_read, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for name in sorted(subfolders + names):
            path = os.path.relpath(os.path.join(folder, name), root)
            if name.startswith("."):
                left_out.append(PassedOver(path, HIDDEN))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            file = os.path.join(folder, name)
            reason = _not_audio(file)
            path = os.path.relpath(file, root)
            if reason:
                left_out.append(PassedOver(path, reason))
            else:
                yield path


def _not_audio(path: str) -> str:
    """Return why a file is not taken for audio, or "" if it is."""
    if is_special(path):
        return "a device, FIFO or socket"
    if os.path.splitext(path)[1].lower() in EXTENSIONS:
        return ""
    try:
        head = first_bytes(path, LOOK)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except UserError:
        return "makes its reader wait"
    return "" if kind_of(head) else not_audio(head)


def utterance_id(path: str) -> str:
    """Return `path` with `_` for white space, and U+FFFD for bytes that are not UTF-8."""
    return re.sub(r"\s", "_", os.fsencode(path).decode("utf-8", "replace"))


def utterance_ids(paths: Sequence[str]) -> list[str]:
    """Return the `utterance_id` of each path, each id once.

    Where several paths have one, a path that is an id as it stands keeps it (`a_b.wav` beside
    `a b.wav`), and the others get `_2`, `_3` and so on in their order.
    """
    plain = [utterance_id(path) for path in paths]
    unchanged_first = sorted(range(len(paths)), key=lambda row: paths[row] != plain[row])
    ids = [""] * len(paths)
    taken: set[str] = set()
    for row in unchanged_first:
        name = plain[row]
        count = 1
        while name in taken:
            count += 1
            name = f"{plain[row]}_{count}"
        taken.add(name)
        ids[row] = name
    return ids
