"""The text files of a Kaldi directory, one reader each: every bad line is reported, none is guessed
at.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from speechssl.audio.tables import OnBadEntry, read_table
from speechssl.errors import UserError

_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})

NOT_LABELS = frozenset({"dur", "num_frames", "uniq"})
"""Names X of files utt2X that hold no label."""


def digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def are_clusters(path: str | Path) -> bool:
    """Whether `speechssl cluster` wrote a file of classes: the clusters.json beside it has its
    digest.
    """
    try:
        written = json.loads((Path(path).parent / "clusters.json").read_text(encoding="utf-8"))
        return bool(written.get("sha256") == digest(path))
    except (OSError, ValueError, AttributeError):
        return False


def read_mapping(path: str | os.PathLike[str]) -> dict[str, str]:
    """Key -> value of a table whose every line must be good; raises UserError at the first that is
    not.
    """

    def refuse(_name: str, reason: str) -> None:
        raise UserError(reason)

    return {key: value for _number, key, value in read_table(Path(path), refuse)}


def read_values(source: Path, name: str) -> dict[str, str]:
    """Utterance -> value: a file, or the utt2<name> of a Kaldi directory; as strict as
    `read_mapping`.
    """
    return read_mapping(source / f"utt2{name}" if source.is_dir() else source)


def write_table(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `first rest` lines; a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.writelines(f"{first} {rest}\n" for first, rest in rows)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); give another output directory"
        ) from error


def write_skipped(skipped: Sequence[tuple[str, str]], folder: Path) -> str:
    """List in FOLDER/skipped.tsv what was left out, as (path, reason); a phrase that counts it by
    kind.

    The kind is the reason up to its first colon. Without anything left out there is no file, and
    "".
    """
    file = folder / "skipped.tsv"
    file.unlink(missing_ok=True)
    if not skipped:
        return ""
    rows = "".join(f"{path.translate(_ESCAPES)}\t{reason}\n" for path, reason in skipped)
    file.write_text(f"path\treason\n{rows}", encoding="utf-8", errors="surrogateescape")
    kinds = Counter(reason.partition(":")[0] for _, reason in skipped)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"; {len(skipped)} files skipped ({counts}), listed in {file}"


def read_durations(path: Path, bad: OnBadEntry) -> dict[str, float]:
    """utt2dur: utterance id -> seconds; {} if there is no such file."""
    seconds: dict[str, float] = {}
    if not path.exists():
        return seconds
    for number, name, value in read_table(path, bad):
        duration = _float(value)
        if name in seconds:
            bad(name, f"{path}:{number}: {name!r} is there twice; remove one line")
        elif not 0 < duration < math.inf:
            bad(
                name,
                f"{path}:{number}: {name!r}: {value!r} is not a duration; give seconds above 0",
            )
        else:
            seconds[name] = duration
    return seconds


def read_segments(
    path: Path, recordings: dict[str, str], bad: OnBadEntry
) -> dict[str, tuple[str, float, float | None]]:
    """segments: utterance id -> (recording id, start, stop) in seconds; a stop of -1 is None, the
    end.
    """
    segments: dict[str, tuple[str, float, float | None]] = {}
    for number, name, value in read_table(path, bad):
        fields = value.split()
        start, stop = (
            (_float(fields[1]), _float(fields[2])) if len(fields) == 3 else (math.nan, math.nan)
        )
        if name in segments:
            bad(name, f"{path}:{number}: {name!r} is there twice; remove one line")
        elif len(fields) != 3:
            bad(
                name,
                f"{path}:{number}: {name!r} needs `recording start stop` behind it, and nothing"
                " more",
            )
        elif fields[0] not in recordings:
            bad(
                name,
                f"{path}:{number}: {name!r} names recording {fields[0]!r}, not usable in wav.scp;"
                " add it",
            )
        elif not (0 <= start < math.inf and (stop == -1 or start < stop < math.inf)):
            bad(
                name,
                f"{path}:{number}: {name!r}: {fields[1]} to {fields[2]} is no span; give 0 <="
                " start < stop",
            )
        else:
            segments[name] = (fields[0], start, None if stop == -1 else stop)
    return segments


def label_names(folder: Path) -> list[str]:
    """Names X of the label files utt2X of a directory, sorted; utt2spk is "spk"."""
    names = (path.name[4:] for path in folder.glob("utt2*") if path.is_file())
    return sorted(name for name in names if name and name not in NOT_LABELS and "." not in name)


def read_labels(folder: Path, name: str, bad: OnBadEntry) -> dict[str, str]:
    """utt2<name>: utterance id -> value."""
    path = folder / f"utt2{name}"
    if not path.exists():
        there = ", ".join(label_names(folder)) or "none"
        raise UserError(
            f"{path}: no such file, so there is no label {name!r}; labels here: {there}"
        )
    table: dict[str, str] = {}
    for number, key, value in read_table(path, bad):
        if key in table:
            bad(key, f"{path}:{number}: {key!r} is there twice; remove one line")
        else:
            table[key] = value
    return table


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
