"""Any folder of audio to a Kaldi directory: `speechssl prepare folder ROOT OUT`.

Ids are the paths below ROOT (as in VoxCeleb's lists), white space replaced by `_`.
Files that cannot be used are left out and listed; no audio is copied. Labels come from
ROOT/utterances.tsv or, if asked for, from the paths.

Layout: audio files at any depth below ROOT; ROOT/utterances.tsv and ROOT/trials if
there are any.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from speechssl.audio import reading
from speechssl.audio.walk import PassedOver, utterance_ids
from speechssl.corpora.listing import Found, labels_of, listing, path_labels
from speechssl.corpora.measuring import Skip, Usable, add_utterance, measure, refuse_file, write
from speechssl.data.manifest import Manifest, Recording, Utterance, channel_id
from speechssl.data.trials import Trials, read_trials, write_trials
from speechssl.errors import UserError
from speechssl.pools import map_ahead
from speechssl.text import plural
from speechssl.threads import usable_cores


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    speaker: str | None = None,
    trim: float | None = None,
    min_seconds: float = 0.5,
    max_seconds: float | None = None,
    channels: Literal["mix", "each"] = "mix",
    check: bool = True,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory for every audio file below a folder.

    If the folder holds utterances.tsv, that says which files there are (column `path`),
    their speakers (`speaker`) and other labels (any other column, but not `utt` and
    `seconds`); if it holds `trials`, they are checked and copied. Corrupt, empty,
    silent (below -80 dBFS), non-finite and too short files, and those that are no audio,
    are left out, counted on standard error, and listed with their reasons in OUT/skipped.tsv.

    Args:
        root: the folder of audio (wav flac ogg opus mp3, and with PyAV m4a webm wma amr ...).
        out: the Kaldi directory to write.
        speaker: where a path names the speaker: a pattern such as
            '{speaker}/{session}/*.wav', whose other names become labels, or a regular
            expression with one group. Without it (and without a column in
            utterances.tsv) every utterance is its own speaker, which is no label.
        trim: cut both ends where the level is this many dB below the loudest (35 is
            usual); gives segments.
        min_seconds: leave out what is shorter, after trimming.
        max_seconds: cut what is longer into equal consecutive segments of at most this
            length.
        channels: of files with several: mix them, or take each one for itself, as a call with one side
            on each has to be (its labels are then those of every side). Channels that are all
            alike are one.
        check: decode every file once, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: a bad folder, table, pattern or trial list, or no usable file.
    """
    root = Path(root)
    _check_numbers(trim, min_seconds, max_seconds, jobs)
    expression = None if speaker is None else path_labels(speaker)
    passed_over: list[PassedOver] = []
    return write_directory(
        listing(root, passed_over),
        root,
        Path(out),
        expression,
        passed_over=passed_over,
        trim=trim,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        channels=channels,
        check=check,
        jobs=jobs,
    )


def write_directory(
    found: Sequence[Found],
    root: Path,
    out: Path,
    expression: re.Pattern[str] | None = None,
    *,
    passed_over: Sequence[PassedOver] = (),
    trim: float | None = None,
    min_seconds: float = 0.5,
    max_seconds: float | None = None,
    channels: Literal["mix", "each"] = "mix",
    check: bool = True,
    jobs: int | None = None,
) -> Manifest:
    """Write the Kaldi directory of files and their labels, and return it.

    Args:
        found: files below `root`.
        root: the folder of the corpus.
        out: the directory to write.
        expression: finds labels in paths (`listing.path_labels`).
        passed_over: files that are no audio, to be listed.
        trim: as in `prepare`, and so are the other settings.
        min_seconds: as in `prepare`.
        max_seconds: as in `prepare`.
        channels: as in `prepare`.
        check: as in `prepare`.
        jobs: as in `prepare`.

    Raises:
        UserError: a bad trial list, or no usable file.
    """
    if root.resolve() == out.resolve():
        raise UserError(f"{out}: is the folder of audio itself; give another directory to write to")
    refuse_file(out)
    named = list(zip(utterance_ids([item.path for item in found]), found, strict=True))
    if channels == "each":
        named = by_channel(named, root, jobs)
    results = measure(
        [_labelled(item, expression) for _, item in named],
        root,
        check=check,
        trim=trim,
        min_seconds=min_seconds,
        jobs=jobs,
    )
    manifest = _manifest(named, results, max_seconds)
    if manifest.utterances:  # where none is left, the message counts audio files alone
        for item in passed_over:
            manifest.skipped.append((item.path, f"not audio: {item.reason}"))
        manifest.skipped.sort()
    trials = None
    if manifest.utterances and (root / "trials").exists():
        trials = read_trials(root / "trials")  # before anything is written
    write(manifest, root, out)
    mixed = sum(isinstance(result, Usable) and result.is_mixed for result in results)
    if mixed and channels == "mix":
        print(
            f"{out}: {plural(mixed, 'file')} with several channels, which are mixed; of calls with one"
            " side on each, --channels each takes every one for itself",
            file=sys.stderr,
        )
    if trials is not None:
        _write_trials(trials, manifest, out)
    return manifest


def _labelled(item: Found, expression: re.Pattern[str] | None) -> Found | Skip:
    """Add the labels that the path of a file names; a Skip if it names none."""
    labels = dict(item.labels)
    if expression is not None:
        from_path = labels_of(item.path, expression)
        if from_path is None:
            return Skip("path without a speaker", "--speaker does not fit it")
        labels.update(from_path)
    if "speaker" in labels:
        labels["speaker"] = re.sub(r"\s", "_", labels["speaker"])
    return replace(item, labels=labels)


def by_channel(
    named: Sequence[tuple[str, Found]], root: Path, jobs: int | None = None
) -> list[tuple[str, Found]]:
    """Return files as one item for each of their channels, with `-ch2` and so on behind the name.

    A file whose channels all hold the same stays one item, and so does one that cannot be read.

    Args:
        named: the id of each file, and the file.
        root: the folder of the corpus.
        jobs: files at a time; None: all cores.
    """

    def count(one: tuple[str, Found]) -> int:
        path = str(root / one[1].path)
        try:
            return 1 if reading.are_channels_alike(path) else reading.info(path).channels
        except UserError:
            return 1

    items: list[tuple[str, Found]] = []
    counts = map_ahead(count, named, max(1, jobs or usable_cores()))
    for (name, item), channels in zip(named, counts, strict=True):
        if channels == 1:
            items.append((name, item))
            continue
        for channel in range(1, channels + 1):
            items.append((channel_id(name, channel), replace(item, channel=channel)))
    return items


def _manifest(
    named: Sequence[tuple[str, Found]],
    results: Sequence[Usable | Skip],
    max_seconds: float | None,
) -> Manifest:
    """Return the manifest of measured files, of which long ones are cut into segments."""
    manifest = Manifest([])
    seen: set[Recording] = set()
    for (name, item), result in zip(named, results, strict=True):
        recording = (item.path, item.channel)
        if isinstance(result, Usable) and recording in seen:
            result = Skip("listed twice")
        if isinstance(result, Skip):
            channel = "" if item.channel is None else f", channel {item.channel}"
            manifest.skipped.append((f"{item.path}{channel}", result.line))
            continue
        seen.add(recording)
        manifest.recordings[result.path, result.channel] = name
        for segment in _segments(name, result, max_seconds):
            add_utterance(manifest, segment, result.labels)
    return manifest


def _segments(name: str, found: Usable, max_seconds: float | None) -> list[Utterance]:
    """Return a file as one utterance or, if it is longer than `max_seconds`, as equal segments.

    Cuts are rounded to milliseconds, which the ids of segments name.
    """
    whole = Utterance(
        name, found.path, found.start, found.stop, found.seconds, channel=found.channel
    )
    if max_seconds is None or found.seconds <= max_seconds:
        return [whole]
    count = math.ceil(found.seconds / max_seconds - 1e-9)
    if count == 1:
        return [whole]
    cuts = [found.start]
    for number in range(1, count):
        cuts.append(round(found.start + found.seconds * number / count, 3))
    cuts.append(found.start + found.seconds)
    segments = []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        identifier = f"{name}-{round(start * 1000):08d}-{round(stop * 1000):08d}"
        segment = replace(whole, id=identifier, start=start, stop=stop, seconds=stop - start)
        segments.append(segment)
    return segments


def _write_trials(trials: Trials, manifest: Manifest, out: Path) -> None:
    """Write OUT/trials; a line on standard error says if utterances of it are missing."""
    path = out / "trials"
    write_trials(trials, path, style="voxceleb")
    unknown = trials.unknown(manifest.ids)
    if unknown:
        print(
            f"{path}: names {len(unknown)} utterances that are not in {out}, such as"
            f" {unknown[0]!r}; leave those trials out when scoring",
            file=sys.stderr,
        )


def _check_numbers(
    trim: float | None, min_seconds: float, max_seconds: float | None, jobs: int | None
) -> None:
    """Raise UserError for numbers that cannot be."""
    for name, value in (("trim", trim), ("max-seconds", max_seconds), ("jobs", jobs)):
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    if not min_seconds >= 0 or (max_seconds is not None and max_seconds < 2 * min_seconds):
        raise UserError(
            f"--min-seconds {min_seconds:g}: give a number from 0 to half of --max-seconds"
        )


PART = prepare
