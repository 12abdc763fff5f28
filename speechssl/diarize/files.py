"""`diarize_to_files`: whatever recordings one has, to RTTM, a picture, and tables."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechssl.audio.walk import PassedOver
from speechssl.data.manifest import Utterance
from speechssl.diarize.picture import draw_timeline
from speechssl.diarize.pipeline import Diarization, diarize, diarize_each_channel
from speechssl.diarize.scoring import DiarizationError, diarization_error
from speechssl.diarize.settings import DiarizeSettings
from speechssl.diarize.turns import Turn, read_rttm, rttm_lines, seconds_of, write_text_file
from speechssl.embed.batches import Failure, none_usable
from speechssl.embed.embedder import Embedder
from speechssl.embed.sources import collect
from speechssl.errors import UserError, writing
from speechssl.files import write_skipped
from speechssl.locks import sole_writer, sole_writer_in
from speechssl.text import plural, printable

COLLAR = 0.25
"""Seconds around the bounds of true turns that do not count in the DER that is printed."""


@dataclass
class Summary:
    """What came of `diarize_to_files`.

    Attributes:
        out: the file or folder.
        turns: recording -> who speaks when.
        lines: their lines of RTTM.
        failed: recordings that could not be diarized.
        passed_over: files of folders that are no audio.
        error: against the reference, where one was given.
        scored: recordings that the reference holds.
        is_count_found: whether the numbers of speakers were found, not given.
    """

    out: str
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    error: DiarizationError = field(default_factory=DiarizationError)
    scored: int = 0
    is_count_found: bool = False

    def __str__(self) -> str:
        text = f"diarized {plural(len(self.turns), 'recording')} into {self.out}"
        if self.is_count_found:
            text += " (numbers of speakers are guesses; give --speakers N where it is known)"
        if self.failed:
            text += f"; {len(self.failed)} failed"
        if self.passed_over:
            text += f"; {len(self.passed_over)} other files passed over"
        if self.failed or self.passed_over:
            text += f", listed in {skipped_path(Path(self.out))}"
        if self.scored:
            error = self.error
            text += (
                f"; DER {100 * error.rate:.1f} % of {error.speech:.0f} s in {self.scored} recordings"
                f" (missed {error.missed:.1f} s, false alarm {error.false_alarm:.1f} s, confusion"
                f" {error.confusion:.1f} s; collar {COLLAR:g} s)"
            )
        return text


def diarize_to_files(
    embedder: Embedder,
    inputs: Sequence[str | Path],
    out: str | Path,
    settings: DiarizeSettings | None = None,
    *,
    reference: str | Path | None = None,
    tables: bool = False,
    named: Callable[[Diarization, Utterance], Diarization] | None = None,
) -> Summary:
    """Diarize recordings; those that cannot be are skipped, counted and listed.

    Args:
        embedder: the model.
        inputs: audio files, folders, wav.scp files, Kaldi directories, or `-`. Of a Kaldi directory
            with `segments` each segment is a recording, whose turns are counted from its beginning.
        out: a name that ends in `.rttm`: one file of all turns. Otherwise a folder: RECORDING.rttm
            and RECORDING.png.
        settings: how; `DiarizeSettings()` if not given.
        reference: an RTTM file of true turns, for the error rate and the pictures.
        tables: write RECORDING.csv and RECORDING.json into the folder, too.
        named: gives the speakers of a recording, which it is told with its channel, other names.

    Raises:
        UserError: a bad input or setting, `out` cannot be written, another process writes it, or no
            recording can be diarized.
    """
    settings = settings or DiarizeSettings()
    settings.check()
    out = Path(out)
    is_file = out.suffix.lower() == ".rttm"
    if is_file and tables:
        raise UserError(f"{out}: tables need a folder; leave out --tables, or give a folder")
    true_turns = {} if reference is None else read_rttm(reference)
    is_count_found = settings.count.least != settings.count.most
    summary = Summary(str(out), is_count_found=is_count_found)
    recordings, bad_lines = collect(inputs, passed_over=summary.passed_over)
    summary.failed += bad_lines
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(out) if is_file else sole_writer_in(out):
        names = file_names([recording.id for recording in recordings])
        for recording, name in zip(recordings, names, strict=True):
            result = _try(embedder, recording, settings, summary)
            if result is None:
                continue
            if named is not None:
                chosen = recording.channel or settings.channel
                result = named(result, replace(recording, channel=chosen))
            true = true_turns.get(re.sub(r"\s", "_", recording.id)) or true_turns.get(
                Path(recording.id).stem, []
            )
            channel = settings.channel or 1
            summary.lines += rttm_lines(recording.id, result.turns, channel, result.channel_of)
            _note(summary, recording.id, result, true)
            if not is_file:
                _write(out / name, recording.id, result, true, settings, tables)
        _finish(summary, out if is_file else None)
    return summary


def file_names(ids: Sequence[str]) -> list[str]:
    """Return a name of a file for each id: letters, digits, `.`, `_` and `-`, each name once."""
    taken: set[str] = set()
    names = []
    for identifier in ids:
        plain = re.sub(r"[^\w.-]", "_", identifier).lstrip(".")[:150] or "recording"
        name = plain
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{plain}_{count}"
        taken.add(name.lower())
        names.append(name)
    return names


def skipped_path(out: Path) -> Path:
    """Return the list of what was left out."""
    return Path(f"{out}.skipped.tsv") if out.suffix.lower() == ".rttm" else out / "skipped.tsv"


def _try(
    embedder: Embedder, recording: Utterance, settings: DiarizeSettings, summary: Summary
) -> Diarization | None:
    try:
        if settings.each_channel:
            return diarize_each_channel(embedder, recording, settings)
        return diarize(embedder, recording, settings)
    except UserError as error:
        failure = Failure.of(recording, str(error))
        summary.failed.append(failure)
        print(f"speechssl: {printable(f'{recording.id}: {failure.reason}')}", file=sys.stderr)
        return None


def _note(summary: Summary, recording: str, result: Diarization, true: Sequence[Turn]) -> None:
    summary.turns[recording] = result.turns
    if true:
        summary.error += diarization_error(true, result.turns, COLLAR)
        summary.scored += 1
    seconds = sum(turn.stop - turn.start for turn in result.turns)
    print(
        f"{printable(recording)}: {plural(len(result.speakers), 'speaker')},"
        f" {plural(len(result.turns), 'turn')},"
        f" {seconds:.1f} s of speech",
        file=sys.stderr,
    )


def _write(
    base: Path,
    recording: str,
    result: Diarization,
    true: Sequence[Turn],
    settings: DiarizeSettings,
    tables: bool,
) -> None:
    """Write the files of one recording: BASE.rttm, BASE.png and the tables.

    Args:
        base: path without ending.
        recording: its id.
        result: who speaks when.
        true: true turns, if they are known.
        settings: for the channel.
        tables: write BASE.csv and BASE.json.
    """
    lines = rttm_lines(recording, result.turns, settings.channel or 1, result.channel_of)
    draw_timeline(result.turns, Path(f"{base}.png"), recording, true)
    if tables:
        rows = [f"{turn.start:.3f},{turn.stop:.3f},{turn.speaker}\n" for turn in result.turns]
        write_text_file(Path(f"{base}.csv"), ["start,stop,speaker\n", *rows])
        table = {
            "recording": printable(recording),
            "speakers": seconds_of(result.turns),
            "turns": [turn._asdict() for turn in result.turns],
        }
        write_text_file(Path(f"{base}.json"), [json.dumps(table, indent=1) + "\n"])
    write_text_file(Path(f"{base}.rttm"), lines)


def _finish(summary: Summary, rttm: Path | None) -> None:
    """Write what is of all recordings: the RTTM file, and the list of what was left out.

    Raises:
        UserError: nothing was diarized.
    """
    skipped = [(failure.path, failure.reason) for failure in summary.failed]
    skipped += [(item.path, f"not audio: {item.reason}") for item in summary.passed_over]
    path = skipped_path(Path(summary.out))
    path.unlink(missing_ok=True)
    if skipped:
        with writing(path):
            write_skipped(path, [("path", "reason"), *skipped])
    if not summary.turns:
        raise none_usable("diarize", summary.failed)
    if rttm is not None:
        write_text_file(rttm, summary.lines)
