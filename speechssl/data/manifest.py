"""A Kaldi data directory as a record: which piece of which file each utterance is, and its labels.

Files: `wav.scp` (recording path), `segments` (utterance recording start stop; optional), `utt2dur`
(utterance seconds; optional), `reco2channel` (recording channel, from 1; optional: of a recording that
is not there, the channels are mixed), `utt2spk`, `utt2<label>` (utterance value), `spk2utt`. Fields are
separated by blanks or tabs, lines are sorted by their bytes, relative paths are relative to the
current directory, as in Kaldi. Training never asks for labels, and then no label file is opened.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from speechssl.audio import reading
from speechssl.audio.pipes import Pipe
from speechssl.audio.readers import Samples
from speechssl.audio.remotes import Remotes
from speechssl.audio.tables import OnBadEntry, read_wav_scp, refuse
from speechssl.data.kaldi import (
    label_names,
    read_channels,
    read_durations,
    read_labels,
    read_segments,
    write_rows,
)
from speechssl.errors import Unreadable, UserError, writing
from speechssl.files import atomic_write_together
from speechssl.pools import map_ahead
from speechssl.threads import usable_cores

Recording = tuple[str, int | None]
"""A file, and which of its channels; None: the mean of all."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A piece of an audio file.

    Attributes:
        id: unique in its manifest.
        path: the file, a member of a tar archive, a `Pipe` or a `Remote`.
        start: seconds.
        stop: seconds, or None for the end of the file.
        seconds: its duration; 0 if unknown.
        source: number of the directory it is from, where several are read together.
        channel: which channel, from 1 (reco2channel); None: the mean of all.
        speech: spans of the file (start, stop) in seconds outside which nothing counts;
            None: all counts.
    """

    id: str
    path: str
    start: float = 0.0
    stop: float | None = None
    seconds: float = 0.0
    source: int = 0
    channel: int | None = None
    speech: tuple[tuple[float, float], ...] | None = None

    @property
    def recording(self) -> Recording:
        """What it is a piece of: two channels of a file are two recordings."""
        return self.path, self.channel

    @property
    def is_whole_file(self) -> bool:
        """True if it is all of a file, with all of its channels mixed."""
        return self.start == 0 and self.stop is None and self.channel is None

    @property
    def counted_seconds(self) -> float:
        """How much of it counts, seconds."""
        if self.speech is None:
            return self.seconds
        return math.fsum(stop - start for start, stop in self.speech)

    def read(self, rate: int) -> Samples:
        """Return its samples (T,) float32 at `rate` Hz, of its piece and its channel.

        Raises:
            UserError: as `reading.read`.
        """
        return reading.read(self.path, rate, self.start, self.stop, self.channel)

    def beginning(self, seconds: float) -> Utterance:
        """Return the utterance cut to its first seconds; infinite: the utterance as it is.

        It gets a stop even if `Utterance.seconds` says that it is shorter: utt2dur may be wrong, and then
        no more is read than was asked for. What lies behind the end of a file is not missed by readers.
        """
        if math.isinf(seconds):
            return self
        stop = self.start + seconds
        if self.stop is not None:
            stop = min(stop, self.stop)
        return dataclasses.replace(self, stop=stop, seconds=min(seconds, self.seconds))


def channel_id(name: str, channel: int) -> str:
    """Return the id of a channel, from 1, of the recording `name`."""
    return f"{name}-ch{channel}"


@dataclass
class Manifest:
    """The utterances of a Kaldi directory.

    Attributes:
        utterances: sorted by id.
        labels: name -> utterance id -> value, such as `labels["emotion"][id]`; `labels["spk"]`
            comes from utt2spk.
        recordings: recording -> id in wav.scp, where utterances are segments.
        skipped: (id, reason) of what was left out.
    """

    utterances: list[Utterance]
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    recordings: dict[Recording, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    @property
    def ids(self) -> list[str]:
        """Ids of the utterances, in order."""
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
    remotes: Remotes | None = None,
) -> Manifest:
    """Read a Kaldi directory.

    Durations come from utt2dur, or else from the headers of the files.

    Args:
        directory: the Kaldi directory.
        labels: names to read (`"spk"`, `"emotion"`; each utterance must then have a value), or
            `"all"` (whatever there is, gaps allowed), or none.
        allow_pipes: accept entries of wav.scp that are shell commands.
        on_bad: what happens at a bad line or unusable utterance: a UserError that names file and
            line, or `"skip"`, an entry of `Manifest.skipped`.
        check_files: look whether each file exists.
        remotes: addresses that wav.scp may name; None: none.

    Raises:
        UserError: a file of the directory is missing, a line is bad (`on_bad="raise"`), or no
            utterance is left.
    """
    folder = checked_folder(directory)
    skipped: list[tuple[str, str]] = []

    def skip(name: str, reason: str) -> None:
        skipped.append((name, reason))

    report = skip if on_bad == "skip" else refuse
    recordings = read_wav_scp(
        folder / "wav.scp",
        report,
        allow_pipes=allow_pipes,
        check_files=check_files,
        remotes=remotes,
    )
    utterances, recording_ids = _read_utterances(folder, recordings, report)
    utterances = _with_durations(utterances, report)
    tables = {name: read_labels(folder, name, report) for name in _wanted_labels(folder, labels)}
    if labels != "all":
        utterances = _without_gaps(utterances, tables, folder, report)
    if not utterances:
        reason = f"; the first of {len(skipped)} problems: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{folder}: no usable utterance{reason}")
    utterances.sort(key=lambda utterance: utterance.id)
    return Manifest(utterances, _labels_of(utterances, tables), recording_ids, skipped)


def checked_folder(directory: str | os.PathLike[str]) -> Path:
    """Return a Kaldi directory.

    Raises:
        UserError: it is not there, or holds no wav.scp.
    """
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


def _read_utterances(
    folder: Path, recordings: Mapping[str, str], on_bad: OnBadEntry
) -> tuple[list[Utterance], dict[Recording, str]]:
    """Return the utterances, and recording -> its id where they are segments.

    `seconds` is 0 where no file states the duration.
    """
    stated = read_durations(folder / "utt2dur", on_bad)
    refused: set[str] = set()

    def refuse_recording(name: str, reason: str) -> None:
        refused.add(name)  # rather than mix its channels
        on_bad(name, reason)

    channels = read_channels(folder / "reco2channel", recordings, refuse_recording)
    recordings = {name: path for name, path in recordings.items() if name not in refused}
    utterances = []
    if not (folder / "segments").exists():
        for name, path in recordings.items():
            seconds = stated.get(name, 0.0)
            utterances.append(Utterance(name, path, seconds=seconds, channel=channels.get(name)))
        return utterances, {}
    for name, segment in read_segments(folder / "segments", recordings, on_bad).items():
        start = segment.start
        stop = segment.stop
        seconds = 0.0 if stop is None else stop - start
        path = recordings[segment.recording]
        channel = channels.get(segment.recording)
        utterances.append(Utterance(name, path, start, stop, seconds, channel=channel))
    return utterances, {(path, channels.get(name)): name for name, path in recordings.items()}


def _with_durations(utterances: list[Utterance], on_bad: OnBadEntry) -> list[Utterance]:
    """Fill in the durations that no file states, from the headers of the audio."""
    paths = dict.fromkeys(utterance.path for utterance in utterances if not utterance.seconds)
    found = map_ahead(_length, paths, min(16, 4 * usable_cores()))
    lengths = dict(zip(paths, found, strict=True))
    known = []
    for utterance in utterances:
        if utterance.seconds:
            known.append(utterance)
            continue
        length = lengths[utterance.path]
        if isinstance(length, Unreadable):
            on_bad(utterance.id, length.reason)
        elif length <= utterance.start:
            on_bad(
                utterance.id,
                f"{utterance.path}: ends at {length:.3f} s, before {utterance.id!r} starts",
            )
        else:
            known.append(dataclasses.replace(utterance, seconds=length - utterance.start))
    return known


def _length(path: str) -> float | Unreadable:
    """Return the seconds of a file, or why they are unknown."""
    try:
        return reading.info(path).seconds
    except UserError as error:
        return Unreadable(path, str(error))


def _wanted_labels(folder: Path, labels: str | Sequence[str]) -> list[str]:
    if labels == "all":
        return label_names(folder)
    if isinstance(labels, str):
        return [labels]
    return list(labels)


def _without_gaps(
    utterances: list[Utterance],
    tables: Mapping[str, Mapping[str, str]],
    folder: Path,
    on_bad: OnBadEntry,
) -> list[Utterance]:
    """Return the utterances that have a value in every table of labels."""
    for label, table in tables.items():
        labelled = []
        for utterance in utterances:
            if utterance.id in table:
                labelled.append(utterance)
            else:
                on_bad(
                    utterance.id,
                    f"{folder / f'utt2{label}'}: no value for {utterance.id!r} of wav.scp or"
                    " segments; add a line",
                )
        utterances = labelled
    return utterances


def _labels_of(
    utterances: Sequence[Utterance], tables: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Return the tables of labels without the values of other utterances."""
    ids = {utterance.id for utterance in utterances}
    kept = {}
    for name, table in tables.items():
        kept[name] = {identifier: value for identifier, value in table.items() if identifier in ids}
    return kept


def write_manifest(
    manifest: Manifest, directory: str | os.PathLike[str], *, outdated: Sequence[str] = ()
) -> None:
    """Write wav.scp, utt2dur, utt2spk, spk2utt, utt2<label>; segments and reco2channel where needed.

    Every file is sorted. All are written under temporary names first and take their places
    together, wav.scp last: while it exists, the files belong together. An utterance without a
    speaker becomes its own in utt2spk: Kaldi's tools demand one, and it says nothing.

    Args:
        manifest: what to write.
        directory: is made if it does not exist.
        outdated: names of files of an earlier version to remove; other files are left alone.

    Raises:
        UserError: two utterances have one id, a line cannot hold an id or path, or the directory
            cannot be written.
    """
    folder = Path(directory)
    utterances = sorted(manifest.utterances, key=lambda utterance: utterance.id)
    _check_writable(utterances, folder)
    tables = _tables(manifest, utterances)
    optional = ("segments", "reco2channel", *outdated)
    removed = [folder / name for name in optional if name not in tables]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in tables]
        with atomic_write_together(paths, removed) as temporary:
            for name, rows in tables.items():
                write_rows(temporary[folder / name], rows)


def _check_writable(utterances: Sequence[Utterance], folder: Path) -> None:
    seen = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise UserError(f"{folder}: two utterances have the id {utterance.id!r}; rename one")
        if not utterance.id or utterance.id.split() != [utterance.id]:
            raise UserError(f"{folder}: {utterance.id!r} cannot be an id; remove the white space")
        obstacle = wav_scp_obstacle(utterance.path)
        if obstacle:
            raise UserError(
                f"{folder}: {utterance.path!r} cannot stand in wav.scp ({obstacle}); rename the file"
            )
        seen.add(utterance.id)


def wav_scp_obstacle(path: str) -> str:
    """Return why a line of wav.scp would not give `path` back as it is, or "" if it would.

    A name that ends in `|` would be read as a shell pipe; a `Pipe` is one.
    """
    if not path or any(letter in path for letter in "\n\r\0"):
        return "line break in its name"
    is_pipe = path.endswith("|") and not isinstance(path, Pipe)
    if is_pipe or path != path.strip(" \t"):
        return "blank or pipe at the end of its name"
    return ""


def _tables(
    manifest: Manifest, utterances: Sequence[Utterance]
) -> dict[str, Iterable[tuple[str, str]]]:
    """Return the rows of each file of the directory by its name, wav.scp last."""
    given_speakers = manifest.labels.get("spk", {})
    speaker_of = {u.id: given_speakers.get(u.id, u.id) for u in utterances}
    utterances_of: dict[str, list[str]] = {}
    for name, speaker in speaker_of.items():
        utterances_of.setdefault(speaker, []).append(name)

    tables: dict[str, Iterable[tuple[str, str]]] = {}
    tables["utt2dur"] = ((u.id, _decimal(u.seconds)) for u in utterances)
    tables["utt2spk"] = speaker_of.items()
    tables["spk2utt"] = sorted((spk, " ".join(names)) for spk, names in utterances_of.items())
    for label, values in manifest.labels.items():
        if label != "spk":
            tables[f"utt2{label}"] = [(u.id, values[u.id]) for u in utterances if u.id in values]
    if any(u.start or u.stop is not None for u in utterances):
        recording_of = _recording_ids(manifest, utterances)
        tables["segments"] = ((u.id, f"{recording_of[u.recording]} {_span(u)}") for u in utterances)
        recordings = sorted((name, recording) for recording, name in recording_of.items())
    else:
        recordings = [(u.id, u.recording) for u in utterances]
    channels = [(name, str(channel)) for name, (_, channel) in recordings if channel is not None]
    if channels:
        tables["reco2channel"] = channels
    tables["wav.scp"] = ((name, path) for name, (path, _) in recordings)
    return tables


def _recording_ids(manifest: Manifest, utterances: Sequence[Utterance]) -> dict[Recording, str]:
    """Return recording -> its id, each id once.

    It is the manifest's own id, or, if it lacks any or repeats one, the id of the first utterance
    of the recording.
    """
    first = {utterance.recording: utterance.id for utterance in reversed(utterances)}
    given = {one: manifest.recordings[one] for one in first if one in manifest.recordings}
    return given if len(set(given.values())) == len(first) else first


def _span(utterance: Utterance) -> str:
    stop = utterance.stop
    if stop is None:
        stop = utterance.start + utterance.seconds
    return f"{_decimal(utterance.start)} {_decimal(stop)}"


def _decimal(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
