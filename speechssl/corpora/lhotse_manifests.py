"""Lhotse's manifests as data: recordings, supervisions and cuts, one JSON object each.

A manifest may be somebody else's: it is read as JSON of bounded lines, without Lhotse. Nothing in
it is run or opened here, and whatever has the wrong type is left out and listed.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from speechssl.audio.tables import MAX_ID
from speechssl.corpora.official import Left
from speechssl.data.kaldi import NOT_LABELS
from speechssl.errors import UserError
from speechssl.foreign_json import is_number
from speechssl.regular import refuse_special_file

SUFFIXES = (".jsonl.gz", ".jsonl", ".json.gz", ".json")
CUTS = frozenset({"MonoCut", "MultiCut", "Cut", "MixedCut", "PaddingCut"})

Readable = IO[bytes] | gzip.GzipFile

_LONGEST_LINE = 1 << 20  # bytes
_LARGEST_LIST = 8 << 20  # bytes of a .json, which is read as a whole: Python makes 25 times as much
_SMALLEST_LIMIT = 64 << 20  # bytes that any .gz may unpack to
_MOST_UNPACKED = 100  # times its size is what a larger .gz may unpack to; manifests reach 10 to 30
_MOST_BAD_LINES = 10_000  # a file with more of them is no manifest
_MOST_LEFT_OUT = 500_000  # entries; with more, something is wrong with all of them
_LONGEST_VALUE = 1000  # characters of a label
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


class WrongEntry(ValueError):
    """What is wrong with an object of a manifest, on one line: `kind: detail`."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where audio lies.

    Attributes:
        kind: file, url, command, or another type of Lhotse's.
        place: path, address or command.
        channels: numbers of its channels.
    """

    kind: str
    place: str
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording: its sources, its length in seconds, and names of its transforms."""

    id: str
    seconds: float
    sources: tuple[Source, ...]
    transforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A supervision or a cut.

    Attributes:
        id: of it.
        recording: the recording, or its id where the manifest only names it.
        start: seconds.
        seconds: its length.
        channels: of the recording; None: all.
        labels: name -> value.
    """

    id: str
    recording: Recording | str
    start: float
    seconds: float
    channels: tuple[int, ...] | None
    labels: dict[str, str]


def leave_out(left_out: Left, where: str, reason: str) -> None:
    """Note an entry that is not used.

    Raises:
        UserError: there are very many of them.
    """
    if len(left_out) >= _MOST_LEFT_OUT:
        first = ": ".join(left_out[0])
        raise UserError(
            f"over {_MOST_LEFT_OUT:,} entries of the manifests cannot be used; the first, {first}"
        )
    left_out.append((where, reason))


def kind_of(entry: dict[str, Any]) -> str:
    """Return what an object is: recording, supervision, cut, or other."""
    if "sources" in entry:
        return "recording"
    kind = entry.get("type")
    if isinstance(kind, str) and kind in CUTS:
        return "cut"
    if "recording_id" in entry and "num_features" not in entry and "type" not in entry:
        return "supervision"
    return "other"


def entries(path: Path, left_out: Left) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a manifest, each with its place (`file:line`).

    Args:
        path: ends in one of `SUFFIXES`.
        left_out: gets an entry for a line that is no object.

    Raises:
        UserError: the file cannot be read, is damaged, too large, or no manifest.
    """
    refuse_special_file(path)
    try:
        with open(path, "rb") as packed:
            file: Readable = packed
            limit = max(_SMALLEST_LIMIT, _MOST_UNPACKED * path.stat().st_size)
            if path.name.endswith(".gz"):
                file = gzip.open(packed)  # noqa: SIM115  # closed with the file inside
            if path.name.removesuffix(".gz").endswith(".json"):
                yield from _of_list(path, file, left_out)
            else:
                yield from _of_lines(path, file, limit, left_out)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); write the manifest again") from error


def _of_lines(
    path: Path, file: Readable, limit: int, left_out: Left
) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    unpacked = 0
    bad = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        too_long = len(line) > _LONGEST_LINE
        unpacked += len(line)
        while too_long and not line.endswith(b"\n") and (line := file.readline(_LONGEST_LINE)):
            unpacked += len(line)
            _check_unpacked(path, unpacked, limit)
        _check_unpacked(path, unpacked, limit)
        entry = None if too_long else _object(line)
        if entry is not None:
            yield f"{path.name}:{number}", entry
            continue
        bad += 1
        if bad > _MOST_BAD_LINES:
            raise UserError(
                f"{path}: over {_MOST_BAD_LINES:,} lines are no JSON objects; give a manifest of"
                " Lhotse"
            )
        if too_long or line.strip():
            detail = f"over {_LONGEST_LINE} bytes" if too_long else "no JSON object"
            leave_out(left_out, f"{path.name}:{number}", f"wrong line: {detail}")


def _check_unpacked(path: Path, unpacked: int, limit: int) -> None:
    if path.name.endswith(".gz") and unpacked > limit:
        raise UserError(
            f"{path}: unpacks to over {limit:,} bytes, more than a manifest of its size holds; not"
            " read further"
        )


def _of_list(path: Path, file: Readable, left_out: Left) -> Iterator[tuple[str, dict[str, Any]]]:
    data = file.read(_LARGEST_LIST + 1)
    if len(data) > _LARGEST_LIST:
        raise UserError(
            f"{path}: holds over {_LARGEST_LIST:,} bytes; write it as .jsonl.gz: `lhotse copy`"
        )
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise UserError(f"{path}: is no JSON list of objects; give a manifest of Lhotse")
    for number, entry in enumerate(found, start=1):
        if isinstance(entry, dict):
            yield f"{path.name}:{number}", entry
        else:
            leave_out(left_out, f"{path.name}:{number}", "wrong line: no JSON object")


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def recording_of(entry: dict[str, Any]) -> Recording:
    """Return the recording that an object describes.

    Raises:
        WrongEntry: a field is missing or has the wrong type.
    """
    sources = entry.get("sources")
    if not isinstance(sources, list) or not sources:
        raise WrongEntry("wrong entry: no sources")
    transforms = []
    for transform in _list(entry, "transforms"):
        name = transform.get("name") if isinstance(transform, dict) else None
        transforms.append(name if isinstance(name, str) else "unknown")
    return Recording(
        identifier(entry.get("id")),
        _seconds(entry, "duration"),
        tuple(_source(source) for source in sources),
        tuple(transforms),
    )


def _source(entry: Any) -> Source:
    if not isinstance(entry, dict):
        raise WrongEntry("wrong entry: a source is no object")
    kind = entry.get("type")
    place = entry.get("source", "")
    channels = _channels(entry.get("channels"))
    if not isinstance(kind, str) or not isinstance(place, str) or channels is None:
        raise WrongEntry("wrong entry: a source without type, source and channels")
    return Source(kind, place, channels)


def supervision_of(entry: dict[str, Any]) -> Span:
    """Return the supervision that an object describes; without a channel it is of channel 0.

    Raises:
        WrongEntry: a field is missing or has the wrong type.
    """
    return Span(
        identifier(entry.get("id")),
        identifier(entry.get("recording_id")),
        _seconds(entry, "start"),
        _seconds(entry, "duration"),
        _channels(entry.get("channel", 0)),
        labels_of(entry),
    )


def cut_of(entry: dict[str, Any]) -> Span:
    """Return the cut that an object describes, with the labels that its supervisions share.

    Raises:
        WrongEntry: a field is missing or has the wrong type, or the cut is computed from others.
    """
    if entry["type"] in ("MixedCut", "PaddingCut"):
        raise WrongEntry(f"computed cut: {entry['type']} is no file; save its audio first")
    recording = entry.get("recording")
    if not isinstance(recording, dict):
        raise WrongEntry("no recording: the cut has features alone")
    shared = None
    for supervision in _list(entry, "supervisions"):
        labels = labels_of(supervision) if isinstance(supervision, dict) else {}
        shared = labels if shared is None else dict(shared.items() & labels.items())
    return Span(
        identifier(entry.get("id")),
        recording_of(recording),
        _seconds(entry, "start"),
        _seconds(entry, "duration"),
        _channels(entry.get("channel", 0)),
        labels_of({"custom": entry.get("custom")}) | (shared or {}),
    )


def labels_of(entry: dict[str, Any]) -> dict[str, str]:
    """Return speaker, gender, language and the strings in `custom`, as far as they are strings."""
    labels = {}
    custom = entry.get("custom")
    for name, value in custom.items() if isinstance(custom, dict) else ():
        if _LABEL.fullmatch(name) and name not in {"spk", "speaker", *NOT_LABELS}:
            labels[name] = value
    for name in ("speaker", "gender", "language"):
        if name in entry:
            labels[name] = entry[name]
    clean = {}
    for name, value in labels.items():
        text = _plain(value) if isinstance(value, str) else ""
        if 0 < len(text) <= _LONGEST_VALUE:
            clean[name] = re.sub(r"\s", "_", text) if name == "speaker" else text
    return clean


def identifier(value: Any) -> str:
    """Return an id with `_` for white space.

    Raises:
        WrongEntry: it is no string, empty, or longer than an id may be.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        raise WrongEntry("wrong entry: no id, or one that is too long")
    return re.sub(r"\s", "_", value.encode("utf-8", "replace").decode())


def _plain(text: str) -> str:
    """Return text on one line, and without what cannot be written as UTF-8."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _list(entry: dict[str, Any], name: str) -> list[Any]:
    """Return a list that may be absent.

    Raises:
        WrongEntry: it is something else.
    """
    found = entry.get(name)
    if found is not None and not isinstance(found, list):
        raise WrongEntry(f"wrong entry: {name} is no list")
    return found or []


def _seconds(entry: dict[str, Any], name: str) -> float:
    value: Any = entry.get(name)
    if not is_number(value) or not 0 <= value < math.inf or (name == "duration" and not value):
        raise WrongEntry(f"wrong entry: {name} is no number of seconds")
    return float(value)


def _channels(value: Any) -> tuple[int, ...] | None:
    """Return channel numbers from a number or a list of them; None for anything else."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(type(number) is not int for number in numbers):
        return None
    return tuple(numbers)
