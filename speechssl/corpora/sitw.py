"""SITW: Speakers in the Wild, 299 speakers of open-source media, trials by condition.

McLaren, Ferrer, Castan and Lawson, "The Speakers in the Wild (SITW) speaker recognition
database" and "The 2016 Speakers in the Wild speaker recognition evaluation", both
Interspeech 2016; SRI International, by a research licence that has to be requested. 299
speakers, about 8 sessions each, in a development and an evaluation part.

Layout: `eval/audio/unotx.flac`, `eval/lists/enroll-core.lst` (`12013 audio/unotx.flac`),
`enroll-assist.lst` and `enroll-assistclean.lst` (`45205 audio/ggjnl.flac 88.000 97.990`,
seconds in which the speaker speaks, any number of lines a model), `test-core.lst`,
`test-multi.lst` (`audio/mihtz.flac`), `eval/keys/core-core.lst` and others named
ENROL-TEST (`12013 audio/mihtz.flac imp`; tgt is a target), subsets of them in
`keys/aux`, and `keys/meta.lst` (file, speaker, gender, microphone, session, start, end,
number of speakers, artefacts, their level 0 to 4, environment, what is heard); the same
below `dev`. Confirmed from the readme of the development part (McLaren 2015) and the
recipes of Kaldi (egs/sitw) and hyperion. The corpus itself was not seen here, nor
published numbers of trials: those that are found are printed, not compared.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

from speechssl.audio.walk import audio_files
from speechssl.corpora.listing import check_folder
from speechssl.corpora.measuring import Piece, prepare_pieces, refuse_file
from speechssl.corpora.named import wav_first
from speechssl.corpora.official import (
    AudioCheck,
    Left,
    read_answers,
    read_lines,
    refuse_line,
    write_lists,
)
from speechssl.data.manifest import Manifest
from speechssl.data.trials import Trials
from speechssl.errors import UserError

ENROLMENTS = ("core", "assist", "assistclean")
TESTS = ("core", "multi")
META = {
    "speaker": 1,
    "gender": 2,
    "microphone": 3,
    "session": 4,
    "numspk": 7,
    "artifact": 8,
    "level": 9,
    "environment": 10,
}
"""Label -> column of meta.lst, from 0."""

_ANSWERS = {"tgt": True, "imp": False}


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    part: Literal["eval", "dev"] = "eval",
    partial: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of a part of SITW, its trials and the enrolment of their models.

    Trials: OUT/trials-core-core, -core-multi, -assist-core, -assist-multi and whatever else
    the keys hold; those of keys/aux keep their names (trials-assist-multi.10s). Enrolment:
    OUT/enrol2utt-core, -assist, -assistclean; evaluate trials-core-multi with `--enrol
    OUT/enrol2utt-core`. What models of `assist` are enrolled from are segments.
    Labels of meta.lst: utt2spk, utt2gender, utt2microphone, utt2session, utt2numspk
    (speakers in the file), utt2artifact, utt2level, utt2environment; `unknown` where
    meta.lst lacks the file.

    Args:
        root: the folder of the corpus (with dev and eval).
        out: the Kaldi directory to write.
        part: eval or dev.
        partial: leave out the trials without audio.
        check: decode every file, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no such folder, another layout, or trials without audio.
    """
    root = Path(root)
    out = Path(out)
    refuse_file(out)
    check_folder(root)
    folder = _part_folder(root, part)
    left_out: Left = []
    enrolments = {}
    for name in ENROLMENTS:
        path = folder / "lists" / f"enroll-{name}.lst"
        if path.exists():
            enrolments[name] = _read_enrolment(path, left_out)
    trials = _read_keys(folder / "keys", enrolments.keys(), left_out)
    labels = _read_meta(folder / "keys" / "meta.lst", left_out)
    wanted = [span for enrolment in enrolments.values() for span in enrolment.spans]
    wanted += [_Span(name) for name in _tests(folder / "lists", trials.values(), left_out)]
    pieces = _pieces(folder, root, wanted, labels)
    manifest = prepare_pieces(pieces, root, out, check=check, jobs=jobs, left_out=left_out)

    audio = AudioCheck(manifest.ids)
    models = {name: audio.models(name, found.models) for name, found in enrolments.items()}
    kept = {}
    for name, found in trials.items():
        kept[f"trials-{name}"] = audio.trials(name, found, models[_enrolment_of(name)])
    audio.report(out, partial, "unpack the rest")
    write_lists(out, kept, {f"enrol2utt-{name}": found for name, found in models.items()})
    return manifest


@dataclass(frozen=True, slots=True)
class _Span:
    """A file of a list, or the seconds of it that count."""

    file: str
    start: float = 0.0
    stop: float | None = None

    @property
    def id(self) -> str:
        """The file's name in the lists, and the milliseconds of a span behind it."""
        if self.stop is None:
            return self.file
        return f"{self.file}-{round(self.start * 1000):08d}-{round(self.stop * 1000):08d}"


@dataclass(slots=True)
class _Enrolment:
    """What an enrolment list holds: the spans, and model -> ids of its spans."""

    spans: list[_Span] = field(default_factory=list)
    models: dict[str, list[str]] = field(default_factory=dict)


def _part_folder(root: Path, part: str) -> Path:
    """Return the folder of a part: in `root`, or in a folder of it."""
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    for folder in (root, *inside):
        if (folder / part / "lists" / "enroll-core.lst").is_file():
            return folder / part
    raise UserError(
        f"{root}: holds no {part}/lists/enroll-core.lst; give the folder of SITW, with dev and eval"
    )


def _read_enrolment(path: Path, left_out: Left) -> _Enrolment:
    """Read an enrolment list: `model file`, or `model file start end`."""
    enrolment = _Enrolment()
    shape = "`model file` or `model file start end`"
    for number, row in read_lines(path, left_out, shape=shape, fields=(2, 4)):
        span = _span(row)
        if span is None:
            refuse_line(path, number, row, shape, left_out)
            continue
        enrolment.spans.append(span)
        utterances = enrolment.models.setdefault(row[0], [])
        if span.id not in utterances:
            utterances.append(span.id)
    return enrolment


def _span(row: list[str]) -> _Span | None:
    """Return the span of a line of an enrolment list, or None if its times are none."""
    if len(row) == 2:
        return _Span(row[1])
    try:
        start = float(row[2])
        stop = float(row[3])
    except ValueError:
        return None
    if not 0 <= start < stop < math.inf:
        return None
    return _Span(row[1], start, stop)


def _enrolment_of(condition: str) -> str:
    """Return the enrolment of a condition: `core-multi` is enrolled by `core`."""
    return condition.partition("-")[0]


def _read_keys(folder: Path, enrolments: Iterable[str], left_out: Left) -> dict[str, Trials]:
    """Return condition -> trials, of every key named ENROL-TEST, and of those in aux."""
    known = set(enrolments)
    trials: dict[str, Trials] = {}
    for path in [*sorted(folder.glob("*.lst")), *sorted(folder.glob("aux/*.lst"))]:
        name = path.name.removesuffix(".lst")
        if path.name == "meta.lst" or name in trials:
            continue
        if "-" not in name or _enrolment_of(name) not in known:
            left_out.append((path.name, "other name: not the key of an enrolment list"))
            continue
        trials[name] = read_answers(path, left_out, _ANSWERS, fields=range(3, 64))
        targets = int(trials[name].target.sum())
        print(f"{path}: {len(trials[name]):,} trials, {targets:,} of them targets", file=sys.stderr)
    if not trials:
        raise UserError(f"{folder}: no key such as core-core.lst; give the corpus with its keys")
    return trials


def _read_meta(path: Path, left_out: Left) -> dict[str, dict[str, str]]:
    """Return file -> labels of meta.lst; {} if there is none."""
    labels: dict[str, dict[str, str]] = {}
    if not path.exists():
        print(f"{path}: no such file: labels are unknown", file=sys.stderr)
        return labels
    shape = "`file speaker gender microphone session start end speakers artefacts level where`"
    for number, row in read_lines(path, left_out, shape=shape, fields=range(11, 1000)):
        if row[0] in labels:
            left_out.append((f"{path.name}:{number}", f"file twice: {row[0]}"))
        else:
            labels[row[0]] = {label: row[column] for label, column in META.items()}
    return labels


def _tests(lists: Path, trials: Iterable[Trials], left_out: Left) -> list[str]:
    """Return the files that the test lists and the keys name, each once."""
    files: dict[str, None] = {}
    for name in TESTS:
        path = lists / f"test-{name}.lst"
        if path.exists():
            rows = read_lines(path, left_out, shape="`file`", fields=range(1, 64))
            files.update(dict.fromkeys(row[0] for _, row in rows))
    for found in trials:
        files.update(dict.fromkeys(found.test.tolist()))
    return list(files)


def _pieces(
    folder: Path, root: Path, spans: Iterable[_Span], labels: dict[str, dict[str, str]]
) -> list[Piece]:
    """Return the utterances of those spans whose file is there, in any format, each once."""
    paths: dict[PurePath, str] = {}
    for path in sorted(audio_files(folder), key=wav_first):
        paths.setdefault(PurePath(path).with_suffix(""), str((folder / path).relative_to(root)))
    pieces: dict[str, Piece] = {}
    for span in spans:
        found = paths.get(PurePath(span.file).with_suffix(""))
        if found is None:
            continue
        unknown = dict.fromkeys(META, "unknown") | {"speaker": f"unknown-{span.file}"}
        known = labels.get(span.file, unknown)
        pieces[span.id] = Piece(span.id, found, span.start, span.stop, known)
    return list(pieces.values())


PART = prepare
