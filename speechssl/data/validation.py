"""Every problem of a Kaldi directory in one pass, for `speechssl validate`, before hours are
spent.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from speechssl.audio import members, reading
from speechssl.audio.remotes import Remote, Remotes
from speechssl.audio.tables import read_table, read_wav_scp
from speechssl.data.kaldi import (
    Segment,
    label_names,
    read_channels,
    read_durations,
    read_labels,
    read_segments,
)
from speechssl.data.manifest import Recording
from speechssl.data.trial_validation import check_trial_lists
from speechssl.data.trials import read_enrolment
from speechssl.errors import Unreadable, UserError
from speechssl.pools import map_ahead
from speechssl.text import first_of
from speechssl.threads import usable_cores

_REQUESTS = 16  # in flight
_SORTED = ("wav.scp", "segments", "reco2channel", "spk2utt")  # and every utt2*
_TOLERANCE = 0.1  # seconds by which utt2dur and segments may disagree with the audio


def validate(
    directory: str | os.PathLike[str],
    read_audio: bool = False,
    *,
    allow_pipes: bool = False,
    remotes: Remotes | None = None,
) -> list[str]:
    """Return every problem of a Kaldi directory, one line each; [] if it can be used as it is.

    Looks at wav.scp, segments, reco2channel, utt2dur, utt2spk, every utt2<label>, spk2utt, every
    enrol2utt, trials, every trials-NAME and pairs-NAME, and whether each file exists, behind
    addresses too: that is a request each.

    Args:
        directory: the Kaldi directory.
        read_audio: decode every file, too, and compare lengths.
        allow_pipes: accept entries of wav.scp that are shell commands; `read_audio` runs them.
        remotes: addresses that wav.scp may name; None: none.
    """
    folder = Path(directory)
    if not folder.is_dir():
        return [f"{folder}: no such directory; give a Kaldi directory"]
    if not (folder / "wav.scp").exists():
        return [f"{folder / 'wav.scp'}: no such file; a Kaldi directory needs it"]
    problems: list[str] = []

    def note(_id: str, message: str) -> None:
        problems.append(message)

    try:
        recordings = read_wav_scp(
            folder / "wav.scp", note, allow_pipes=allow_pipes, check_files=True, remotes=remotes
        )
        problems += _check_stored(folder / "wav.scp", recordings)
        segments = {name: Segment(name, 0.0, None) for name in recordings}
        if (folder / "segments").exists():
            segments = read_segments(folder / "segments", recordings, note)
        if not segments and not problems:
            problems.append(f"{folder}: no utterance in it; add some")
        channels = read_channels(folder / "reco2channel", recordings, note)
        durations = read_durations(folder / "utt2dur", note)
        if (folder / "utt2dur").exists():
            problems += _compare_ids(folder / "utt2dur", segments.keys(), durations.keys())
        problems += _check_labels(folder, segments.keys())
        problems += _check_order(folder)
        models, bad_models = _check_enrolment(folder, segments.keys())
        problems += bad_models
        problems += check_trial_lists(folder, {*segments, *models})
    except UserError as error:
        return [*problems, str(error)]
    if read_audio:
        files = {name: (path, channels.get(name)) for name, path in recordings.items()}
        problems += _check_audio(files, segments, durations)
    return problems


def _check_stored(path: Path, recordings: Mapping[str, str]) -> list[str]:
    """Ask for each file behind an address whether it is there; archives have been asked for."""

    def problem(item: tuple[str, str]) -> str:
        name, address = item
        try:
            members.archive_size(address)
        except UserError as error:
            return f"{path}: {name!r}: {error}"
        return ""

    stored = [
        (name, address)
        for name, address in recordings.items()
        if isinstance(address, Remote) and members.parse(address) is None
    ]
    return [found for found in map_ahead(problem, stored, _REQUESTS) if found]


def _compare_ids(path: Path, expected: Collection[str], found: Collection[str]) -> list[str]:
    """Report ids found in only one of two tables, at most one message each.

    Args:
        path: the table that is compared with wav.scp or segments.
        expected: ids of wav.scp or segments.
        found: ids of the table.
    """
    problems = []
    without_line = set(expected) - set(found)
    if without_line:
        problems.append(
            f"{path}: no line for {first_of(without_line)}; make it agree with wav.scp or segments"
        )
    unknown = set(found) - set(expected)
    if unknown:
        problems.append(
            f"{path}: unknown utterance {first_of(unknown)}; make it agree with wav.scp or segments"
        )
    return problems


def _check_labels(folder: Path, ids: Collection[str]) -> list[str]:
    """Check utt2spk, spk2utt and every utt2<label>."""
    problems: list[str] = []

    def note(_id: str, message: str) -> None:
        problems.append(message)

    if not (folder / "utt2spk").exists():
        problems.append(
            f"{folder / 'utt2spk'}: no such file; write `id id` lines where speakers are unknown"
        )
    for label in label_names(folder):
        values = read_labels(folder, label, note)
        problems += _compare_ids(folder / f"utt2{label}", ids, values.keys())
        if label != "spk" or not (folder / "spk2utt").exists():
            continue
        pairs: set[tuple[str, str]] = set()
        for _number, speaker, utterances in read_table(folder / "spk2utt", note):
            pairs.update((utterance, speaker) for utterance in utterances.split())
        if pairs != set(values.items()):
            problems.append(
                f"{folder / 'spk2utt'}: is not the inverse of utt2spk; delete it or write it again"
            )
    return problems


def _check_order(folder: Path) -> list[str]:
    """Report files whose lines are not sorted by their bytes, as Kaldi's tools need them."""
    problems = []
    for path in sorted(folder.glob("*")):
        if path.name not in _SORTED and not path.name.startswith("utt2"):
            continue
        if not path.is_file():
            continue
        lines = path.read_bytes().split(b"\n")
        names = [line.split(None, 1)[0] for line in lines if line.strip()]
        if names != sorted(names):
            problems.append(f"{path}: is not sorted; sort it with LC_ALL=C")
    return problems


def _check_enrolment(folder: Path, ids: Collection[str]) -> tuple[set[str], list[str]]:
    """Return the models of every enrol2utt of a directory, and what is wrong with these files."""
    models: set[str] = set()
    problems = []
    for path in sorted(folder.glob("enrol2utt*")):
        try:
            enrolment = read_enrolment(path)
        except UserError as error:
            problems.append(str(error))
            continue
        models.update(enrolment)
        unknown = sorted({name for names in enrolment.values() for name in names} - set(ids))
        if unknown:
            problems.append(
                f"{path}: names unknown utterance {first_of(unknown)}; remove it from its model"
            )
    return models, problems


def _check_audio(
    recordings: Mapping[str, Recording],
    segments: Mapping[str, Segment],
    durations: Mapping[str, float],
) -> list[str]:
    """Decode every recording; report those that cannot be used, and durations that are wrong.

    Args:
        recordings: id -> path and channel.
        segments: utterance id -> the piece of a recording that it is.
        durations: utterance id -> seconds, as far as utt2dur states them.
    """
    found = map_ahead(_decoded_length, recordings.values(), usable_cores())
    lengths = dict(zip(recordings.values(), found, strict=True))
    problems = [length.reason for length in lengths.values() if isinstance(length, Unreadable)]
    for name, segment in segments.items():
        recording = recordings[segment.recording]
        path = recording[0]
        length = lengths[recording]
        if isinstance(length, Unreadable):
            continue
        stop = length if segment.stop is None else segment.stop
        seconds = stop - segment.start
        stated = durations.get(name, seconds)
        if stop > length + _TOLERANCE or segment.start >= length:
            problems.append(
                f"{path}: {name!r} reaches beyond its end at {length:.2f} s; correct segments"
            )
        elif abs(stated - seconds) > _TOLERANCE:
            problems.append(
                f"{path}: {name!r} lasts {seconds:.2f} s, utt2dur says {stated:g} s; correct"
                " utt2dur"
            )
    return problems


def _decoded_length(recording: Recording) -> float | Unreadable:
    """Decode a file, or a channel of it, and return its seconds, or why it cannot be used."""
    path, channel = recording
    try:
        content = reading.check(path, channel)
    except UserError as error:
        return Unreadable(path, str(error))
    if content.is_silent:
        return Unreadable(path, f"{path}: is silent; remove it")
    return content.info.seconds
