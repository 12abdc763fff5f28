"""The text files of a Kaldi directory, a reader for each.

Every bad line is reported, none is guessed at. (`wav.scp` is read by `speechssl.audio.tables`,
because noise banks are wav.scp files, too.)
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from speechssl import files, foreign_json
from speechssl.audio.tables import OnBadEntry, read_table, refuse
from speechssl.errors import UserError, writing

MOST_CHANNELS = 10_000
"""Of a recording: far more than any microphone array has."""

NOT_LABELS = frozenset({"dur", "num_frames", "uniq"})
"""Names X of files utt2X that hold no label."""


class Segment(NamedTuple):
    """A piece of a recording.

    Attributes:
        recording: id in wav.scp.
        start: seconds.
        stop: seconds, or None for the end of the recording.
    """

    recording: str
    start: float
    stop: float | None


def read_mapping(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a table of `key value` lines; a later line for the same key wins.

    Raises:
        UserError: the file cannot be read, or a line has no value.
    """
    return {key: value for _number, key, value in read_table(Path(path), refuse)}


def read_values(source: Path, name: str) -> dict[str, str]:
    """Read utterance -> value from a file, or from utt2<name> of a Kaldi directory.

    Raises:
        UserError: as `read_mapping`.
    """
    return read_mapping(source / f"utt2{name}" if source.is_dir() else source)


def read_durations(path: Path, on_bad: OnBadEntry) -> dict[str, float]:
    """Read utt2dur: utterance id -> seconds; {} if there is no such file."""
    seconds: dict[str, float] = {}
    if not path.exists():
        return seconds
    for number, name, value in read_table(path, on_bad):
        where = f"{path}:{number}: {name!r}"
        duration = _number(value)
        if name in seconds:
            on_bad(name, f"{where} is there twice; remove one line")
        elif not 0 < duration < math.inf:
            on_bad(name, f"{where}: {value!r} is not a duration; give seconds above 0")
        else:
            seconds[name] = duration
    return seconds


def read_segments(
    path: Path, recordings: Mapping[str, str], on_bad: OnBadEntry
) -> dict[str, Segment]:
    """Read segments: utterance id -> the piece of a recording that it is.

    Args:
        path: the file; lines are `utterance recording start stop`, a stop of -1 means the end.
        recordings: the usable ones of wav.scp.
        on_bad: called for a line that cannot be used.
    """
    segments: dict[str, Segment] = {}
    for number, name, value in read_table(path, on_bad):
        where = f"{path}:{number}: {name!r}"
        fields = value.split()
        if name in segments:
            on_bad(name, f"{where} is there twice; remove one line")
            continue
        if len(fields) != 3:
            on_bad(name, f"{where} needs `recording start stop` behind it, and nothing more")
            continue
        recording, first, last = fields
        start = _number(first)
        stop = _number(last)
        if recording not in recordings:
            on_bad(
                name,
                f"{where} names recording {recording!r}, not usable in wav.scp; add it",
            )
        elif not 0 <= start < math.inf or not (stop == -1 or start < stop < math.inf):
            on_bad(name, f"{where}: {first} to {last} is no span; give 0 <= start < stop")
        else:
            segments[name] = Segment(recording, start, None if stop == -1 else stop)
    return segments


def read_channels(path: Path, recordings: Mapping[str, str], on_bad: OnBadEntry) -> dict[str, int]:
    """Read reco2channel: recording id -> its channel in its file, from 1; {} if there is no such file.

    Args:
        path: the file; lines are `recording channel`.
        recordings: the usable ones of wav.scp.
        on_bad: called for a line that cannot be used.
    """
    channels: dict[str, int] = {}
    if not path.exists():
        return channels
    for number, name, value in read_table(path, on_bad):
        where = f"{path}:{number}: {name!r}"
        if name in channels:
            on_bad(name, f"{where} is there twice; remove one line")
        elif name not in recordings:
            on_bad(name, f"{where} is no recording that is usable in wav.scp; add it")
        elif not (value.isascii() and value.isdecimal() and 1 <= int(value) <= MOST_CHANNELS):
            on_bad(name, f"{where}: {value!r} is no channel; give 1 to {MOST_CHANNELS}")
        else:
            channels[name] = int(value)
    return channels


def label_names(folder: Path) -> list[str]:
    """Return the names X of the label files utt2X of a directory, sorted; utt2spk is "spk"."""
    names = []
    for path in folder.glob("utt2*"):
        name = path.name.removeprefix("utt2")
        if path.is_file() and name and name not in NOT_LABELS and "." not in name:
            names.append(name)
    return sorted(names)


def read_labels(folder: Path, name: str, on_bad: OnBadEntry) -> dict[str, str]:
    """Read utt2<name>: utterance id -> value.

    Raises:
        UserError: there is no such file.
    """
    path = folder / f"utt2{name}"
    if not path.exists():
        there = ", ".join(label_names(folder)) or "none"
        raise UserError(
            f"{path}: no such file, so there is no label {name!r}; labels here: {there}"
        )
    values: dict[str, str] = {}
    for number, key, value in read_table(path, on_bad):
        if key in values:
            on_bad(key, f"{path}:{number}: {key!r} is there twice; remove one line")
        else:
            values[key] = value
    return values


def write_table(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `name rest` lines; the file appears whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with writing(path), files.atomic_write(path) as temporary:
        write_rows(temporary, rows)


def write_rows(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `name rest` lines to a temporary path of `files.atomic_write` or its relative.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(f"{name} {rest}\n" for name, rest in rows)


def report_skipped(skipped: Sequence[tuple[str, str]], folder: Path) -> str:
    """List in FOLDER/skipped.tsv what was left out, and return a phrase that counts it by kind.

    Args:
        skipped: (path, reason); the kind is the reason up to its first colon.
        folder: where the list is written. No list is written if nothing was left out.

    Returns:
        Such as "; 3 files skipped (2 corrupt, 1 silent), listed in ...", or "".
    """
    path = folder / "skipped.tsv"
    if not skipped:
        path.unlink(missing_ok=True)
        return ""
    header = ("path", "reason")
    files.write_skipped(path, [header, *skipped])
    kinds = Counter(reason.partition(":")[0] for _, reason in skipped)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"; {len(skipped)} files skipped ({counts}), listed in {path}"


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def are_clusters(path: str | Path) -> bool:
    """Return True if `speechssl cluster` wrote this file of classes.

    The clusters.json beside it then holds its digest.
    """
    try:
        written = foreign_json.read(Path(path).parent / "clusters.json")
        return bool(written.get("sha256") == digest(path))
    except (OSError, UserError):
        return False


def _number(text: str) -> float:
    """Return the number that a field holds; NaN if it holds none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
