"""A Kaldi data directory as a record: which piece of which file each utterance is, and its labels.

Files: `wav.scp` (recording path), `segments` (utterance recording start stop; optional), `utt2dur`
(utterance seconds; optional), `utt2spk`, `utt2<label>` (utterance value), `spk2utt`. Fields are
separated by blanks or tabs, lines are sorted by their bytes, relative paths are relative to the
current directory, as in Kaldi. Training never asks for labels, and then no label file is opened.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from speechssl.audio import reading
from speechssl.audio.tables import OnBadEntry, read_wav_scp
from speechssl.data.kaldi import (
    label_names,
    read_durations,
    read_labels,
    read_segments,
    write_table,
)
from speechssl.errors import UserError
from speechssl.threads import usable_cores


@dataclass(frozen=True, slots=True)
class Utterance:
    """The piece of `path` from `start` to `stop` seconds (None: to the end), `seconds` long."""

    id: str
    path: str
    start: float = 0.0
    stop: float | None = None
    seconds: float = 0.0


@dataclass
class Manifest:
    """Utterances sorted by id, and their labels: `labels["emotion"][id]`; `labels["spk"]` comes
        from utt2spk.

    `recordings` maps a path to its id in wav.scp where utterances are segments. `skipped` lists
    what was left out as (id, reason).
    """

    utterances: list[Utterance]
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    recordings: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    @property
    def ids(self) -> list[str]:
        """The utterances' ids, in order."""
        return [utterance.id for utterance in self.utterances]

    @property
    def seconds(self) -> float:
        """Total duration in seconds."""
        return math.fsum(utterance.seconds for utterance in self.utterances)


def read_manifest(
    directory: str | os.PathLike[str],
    labels: str | Sequence[str] = (),
    *,
    allow_pipes: bool = False,
    on_bad: Literal["raise", "skip"] = "raise",
    check_files: bool = True,
) -> Manifest:
    """Read a Kaldi directory.

    `labels`: names to read (`"spk"`, `"emotion"`; each utterance must then have a value), or
    `"all"` (whatever there is, gaps allowed), or none. Durations come from utt2dur, or else from
    the files' headers. `check_files`: look whether each file exists. A bad line is a UserError that
    names file and line, or (`on_bad="skip"`) goes to `Manifest.skipped`; it is a UserError either
    way if no utterance is left.
    """
    folder = _folder(directory)
    skipped: list[tuple[str, str]] = []
    bad = _refuse if on_bad == "raise" else lambda name, reason: skipped.append((name, reason))
    recordings = read_wav_scp(
        folder / "wav.scp", bad, allow_pipes=allow_pipes, check_files=check_files
    )
    known = read_durations(folder / "utt2dur", bad)
    if (folder / "segments").exists():
        segments = read_segments(folder / "segments", recordings, bad)
        utterances = [
            Utterance(
                name, recordings[recording], start, stop, 0.0 if stop is None else stop - start
            )
            for name, (recording, start, stop) in segments.items()
        ]
        paths = {path: name for name, path in recordings.items()}
    else:
        utterances = [
            Utterance(name, path, seconds=known.get(name, 0.0)) for name, path in recordings.items()
        ]
        paths = {}
    utterances = _measured(utterances, bad)
    wanted = (
        label_names(folder)
        if labels == "all"
        else [labels]
        if isinstance(labels, str)
        else list(labels)
    )
    tables = {name: read_labels(folder, name, bad) for name in wanted}
    if labels != "all":
        utterances = _labelled(utterances, tables, folder, bad)
    if not utterances:
        reason = f"; the first of {len(skipped)} problems: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{folder}: no usable utterance{reason}")
    utterances.sort(key=lambda utterance: utterance.id)
    ids = {utterance.id for utterance in utterances}
    kept = {
        name: {i: value for i, value in table.items() if i in ids} for name, table in tables.items()
    }
    return Manifest(utterances, kept, paths, skipped)


def write_manifest(manifest: Manifest, directory: str | os.PathLike[str]) -> None:
    """Write wav.scp, utt2dur, utt2spk, spk2utt, utt2<label> and, for pieces of files, segments.

    Every file is sorted and replaced at once (written beside, then renamed). An utterance without a
    speaker becomes its own in utt2spk: Kaldi's tools demand one, and it says nothing. Files of
    labels that the manifest does not hold are left alone. Raises UserError on duplicated ids, and
    on ids and paths that a line cannot hold.
    """
    folder = Path(directory)
    utterances = sorted(manifest.utterances, key=lambda utterance: utterance.id)
    _check_writable(utterances, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error.strerror}); give another output directory"
        ) from error
    if any(utterance.start or utterance.stop is not None for utterance in utterances):
        names = _recording_ids(manifest, utterances)
        write_table(folder / "wav.scp", sorted((name, path) for path, name in names.items()))
        write_table(
            folder / "segments", ((u.id, f"{names[u.path]} {_span(u)}") for u in utterances)
        )
    else:
        write_table(folder / "wav.scp", ((u.id, u.path) for u in utterances))
        (folder / "segments").unlink(missing_ok=True)
    write_table(folder / "utt2dur", ((u.id, _number(u.seconds)) for u in utterances))
    given = manifest.labels.get("spk", {})
    speakers = [(u.id, given.get(u.id, u.id)) for u in utterances]
    write_table(folder / "utt2spk", speakers)
    members: dict[str, list[str]] = {}
    for name, speaker in speakers:
        members.setdefault(speaker, []).append(name)
    write_table(
        folder / "spk2utt", sorted((speaker, " ".join(names)) for speaker, names in members.items())
    )
    for label, table in manifest.labels.items():
        if label != "spk":
            write_table(
                folder / f"utt2{label}", ((u.id, table[u.id]) for u in utterances if u.id in table)
            )


def validate(
    directory: str | os.PathLike[str], read_audio: bool = False, *, allow_pipes: bool = False
) -> list[str]:
    """Every problem of a Kaldi directory, one line each; see `speechssl.data.validation`."""
    from speechssl.data.validation import problems

    return problems(directory, read_audio, allow_pipes=allow_pipes)


def _folder(directory: str | os.PathLike[str]) -> Path:
    folder = Path(directory)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such directory; give a Kaldi directory (speechssl prepare makes one)"
        )
    if not (folder / "wav.scp").exists():
        raise UserError(
            f"{folder}: holds no wav.scp; make one with `speechssl prepare folder {folder} OUT`"
        )
    return folder


def _refuse(name: str, reason: str) -> None:
    raise UserError(reason)


def _measured(utterances: list[Utterance], bad: OnBadEntry) -> list[Utterance]:
    """Fill in the durations that no file states from the headers of the audio, read by several
    threads.
    """
    paths = list({utterance.path for utterance in utterances if not utterance.seconds})
    if not paths:
        return utterances

    def seconds(path: str) -> float | str:
        try:
            return reading.info(path).seconds
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(min(16, 4 * usable_cores())) as pool:
        found = dict(zip(paths, pool.map(seconds, paths), strict=True))
    measured = []
    for utterance in utterances:
        length = found.get(utterance.path, 0.0)
        if utterance.seconds:
            measured.append(utterance)
        elif isinstance(length, str):
            bad(utterance.id, length)
        elif length <= utterance.start:
            bad(
                utterance.id,
                f"{utterance.path}: ends at {length:.3f} s, before {utterance.id!r} starts",
            )
        else:
            measured.append(
                Utterance(
                    utterance.id, utterance.path, utterance.start, None, length - utterance.start
                )
            )
    return measured


def _labelled(
    utterances: list[Utterance], tables: dict[str, dict[str, str]], folder: Path, bad: OnBadEntry
) -> list[Utterance]:
    """The utterances that every table knows."""
    for label, table in tables.items():
        missing = [utterance.id for utterance in utterances if utterance.id not in table]
        for name in missing:
            bad(
                name,
                f"{folder / f'utt2{label}'}: no value for {name!r} of wav.scp or segments; add a"
                " line",
            )
        if missing:
            utterances = [utterance for utterance in utterances if utterance.id in table]
    return utterances


def _check_writable(utterances: list[Utterance], folder: Path) -> None:
    seen = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise UserError(f"{folder}: two utterances have the id {utterance.id!r}; rename one")
        if not utterance.id or utterance.id.split() != [utterance.id]:
            raise UserError(f"{folder}: {utterance.id!r} cannot be an id; remove the white space")
        if not utterance.path.strip() or "\n" in utterance.path or "\r" in utterance.path:
            raise UserError(
                f"{folder}: {utterance.path!r} cannot stand in wav.scp; rename the file"
            )
        seen.add(utterance.id)


def _recording_ids(manifest: Manifest, utterances: list[Utterance]) -> dict[str, str]:
    """path -> recording id: the manifest's own, or else the first utterance's id; unique either
    way.
    """
    first = {utterance.path: utterance.id for utterance in reversed(utterances)}
    given = {path: manifest.recordings[path] for path in first if path in manifest.recordings}
    return given if len(set(given.values())) == len(first) else first


def _span(utterance: Utterance) -> str:
    stop = utterance.start + utterance.seconds if utterance.stop is None else utterance.stop
    return f"{_number(utterance.start)} {_number(stop)}"


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
