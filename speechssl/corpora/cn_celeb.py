"""CN-Celeb: Chinese celebrities in eleven genres, the evaluation CN-Celeb.E and training data.

CN-Celeb1: Fan et al., "CN-Celeb: a challenging Chinese speaker recognition dataset",
ICASSP 2020; CN-Celeb2: Li et al., "CN-Celeb: multi-genre speaker recognition", Speech
Communication 137, 2022; both openslr.org/82, whose page states the licence. CN-Celeb1
has 126,532 utterances of 997 speakers below `data`, and for evaluation 196 models and
17,777 utterances of 200 speakers: 3,484,292 trials, 17,755 of them targets (a count of
the files of release `cn-celeb_v2`; the first release, that of the publication, had over 130,000
utterances of 1,000 speakers). CN-Celeb2 has about 2,000 speakers. `speechssl prepare
cn_celeb ROOT OUT --part eval` and `--part dev`.

Layout: `CN-Celeb_flac/data/id00012/singing-01-001.flac` (speaker, genre, session,
utterance), `dev/dev.lst` (the speakers to train on), `eval/enroll/id00800-enroll.flac`,
`eval/test/id00800-singing-01-005.flac` and `eval/lists/` with enroll.lst, enroll.map,
test.lst and trials.lst; `CN-Celeb2_flac/data/...` and `spk.lst`. Confirmed from the
recipes of Kaldi (egs/cnceleb) and WeSpeaker (examples/cnceleb) and lines that others
quote: `id00800-enroll enroll/id00800-enroll.wav` (enroll.lst), `id00800-enroll
test/id00800-singing-01-005.wav 1` (trials.lst); the lists say wav, the release is
flac. The corpus itself was not seen here, nor a line of enroll.map, which WeSpeaker reads as
`model id00800/....wav ...`, paths below `data`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath
from typing import Literal

from speechssl.audio.walk import audio_files
from speechssl.corpora.listing import Found, check_folder
from speechssl.corpora.measuring import prepare_files, refuse_file
from speechssl.corpora.named import compare_counts, report_missing, wav_first
from speechssl.corpora.official import (
    AudioCheck,
    Left,
    compare_trials,
    read_answers,
    read_lines,
    write_lists,
)
from speechssl.corpora.partial import refuse_unless_partial
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError

SPEAKERS = 997
UTTERANCES = 126532
"""What `data` of CN-Celeb1 holds."""

TRIALS = (3484292, 17755)
"""Trials of trials.lst, and targets among them."""

TEST_GENRES = {
    "interview": 6175,
    "entertainment": 3434,
    "live_broadcast": 2304,
    "speech": 2089,
    "singing": 2017,
    "vlog": 776,
    "drama": 661,
    "movie": 146,
    "recitation": 105,
    "play": 50,
    "advertisement": 20,
}
"""Utterances of each genre in `eval/test`."""

ANSWERS = {"1": True, "0": False}
"""Words of trials.lst."""

_UTTERANCE = re.compile(r"(?:(id\d+)-)?([a-z_]+)-(\d+)-(\d+)")
_SPEAKER_LISTS = ("dev/dev.lst", "spk.lst")


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    part: Literal["eval", "dev"] = "eval",
    partial: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of the evaluation of CN-Celeb, or of its training data.

    Labels: utt2spk, utt2genre, utt2session (a session of a speaker). The evaluation has
    OUT/trials (`model test target|nontarget`) and what its models are enrolled from, to
    be given to `speechssl evaluate verification --enrol`: OUT/enrol2utt (the one file that
    enroll.lst names) and, if there is enroll.map, OUT/enrol2utt-map (the utterances that
    this file was joined from, whose embeddings are averaged). Ids are those of the lists,
    `test/id00800-singing-01-005.wav`, whatever the audio was converted to. A joined file
    has the genre of its utterances, `mixed` if there are several, `unknown` without
    enroll.map. An EER on fewer trials is not comparable, so another number of trials,
    and trials without audio, are refused.

    Args:
        root: the folder of CN-Celeb1, or the one above it; for dev that of CN-Celeb2, too,
            or the one that both lie in.
        out: the Kaldi directory to write.
        part: eval (trials), or dev (the speakers of dev/dev.lst and spk.lst, to train on).
        partial: go on with an incomplete corpus, and leave out the trials without audio.
        check: decode every file, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no such folder, another layout, not all of it, or trials without audio.
    """
    root = Path(root)
    refuse_file(Path(out))
    check_folder(root)
    if part == "dev":
        return _prepare_dev(root, Path(out), partial, check, jobs)
    return _prepare_eval(root, Path(out), partial, check, jobs)


def _prepare_dev(root: Path, out: Path, partial: bool, check: bool, jobs: int | None) -> Manifest:
    """Write the utterances of the speakers that the releases below `root` list for training."""
    left_out: Left = []
    files: dict[str, Found] = {}
    for release in _folders_with(root, _SPEAKER_LISTS):
        listed = _listed_speakers(release, left_out)
        found = _utterances(release / "data", root, left_out)
        if (release / "dev").is_dir():
            _compare_release(release, found, partial)
        chosen = {name: item for name, item in found.items() if item.labels["speaker"] in listed}
        report_missing(
            "cn_celeb", listed, {item.labels["speaker"] for item in chosen.values()}, str(release)
        )
        files.update(chosen)
    if not files:
        raise _wrong_layout(root, "dev/dev.lst or spk.lst with data/idNNNNN/genre-NN-NNN.flac")
    return prepare_files(
        sorted(files.items()), root, out, check=check, jobs=jobs, left_out=left_out
    )


def _prepare_eval(root: Path, out: Path, partial: bool, check: bool, jobs: int | None) -> Manifest:
    """Write what the trials name, the trials, and the enrolment of their models."""
    folders = _folders_with(root, ("eval/lists/trials.lst",))
    if not folders:
        raise _wrong_layout(root, "eval/lists/trials.lst")
    release = folders[0]
    lists = release / "eval" / "lists"
    left_out: Left = []
    trials = read_answers(
        lists / "trials.lst", left_out, ANSWERS, fields=range(3, 4), test_id=_with_wav
    )
    compare_trials(lists / "trials.lst", trials, TRIALS, partial)
    models = _models(lists / "enroll.lst", left_out, range(2, 3))
    averaged = {}
    if (lists / "enroll.map").exists():
        averaged = _models(lists / "enroll.map", left_out, range(2, 1 << 20))
    mapped = {name for utterances in averaged.values() for name in utterances}
    files = _utterances(release / "eval" / "test", root, left_out, "test/")
    files.update(_enrolled(release / "eval" / "enroll", root, averaged))
    if mapped:
        files.update(_utterances(release / "data", root, [], only=mapped))
    manifest = prepare_files(
        sorted(files.items()), root, out, check=check, jobs=jobs, left_out=left_out
    )
    _compare_genres(manifest)
    audio = AudioCheck(manifest.ids)
    models = audio.models("enrol2utt", models)
    averaged = audio.models("enrol2utt-map", averaged)
    kept = audio.trials("trials", trials, models)
    audio.report(out, partial, "unpack the rest")
    write_lists(out, {"trials": kept}, {"enrol2utt": models, "enrol2utt-map": averaged})
    return manifest


def _folders_with(root: Path, names: Iterable[str]) -> list[Path]:
    """Return `root` or those folders in it that hold one of the files."""
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    names = list(names)
    return [
        folder for folder in (root, *inside) if any((folder / name).is_file() for name in names)
    ]


def _wrong_layout(root: Path, what: str) -> UserError:
    return UserError(f"{root}: holds no {what}; give the folder CN-Celeb_flac of the release")


def _listed_speakers(release: Path, left_out: Left) -> list[str]:
    """Return the speakers that a release lists for training, each once."""
    speakers: dict[str, None] = {}
    for name in _SPEAKER_LISTS:
        if (release / name).is_file():
            rows = read_lines(release / name, left_out, shape="a speaker", fields=range(1, 2))
            speakers.update(dict.fromkeys(row[0] for _, row in rows))
    return list(speakers)


def _utterances(
    folder: Path, root: Path, left_out: Left, prefix: str = "", only: Collection[str] | None = None
) -> dict[str, Found]:
    """Return id -> file of the utterances below a folder, of two formats the wav file.

    Args:
        folder: `data` or `eval/test`.
        root: of the corpus; paths begin there.
        left_out: gets an entry for a file of another name.
        prefix: what ids begin with.
        only: ids to look at; None: all.
    """
    files: dict[str, Found] = {}
    for path in sorted(audio_files(folder), key=wav_first):
        place = PurePath(path)
        name = f"{prefix}{place.with_suffix('.wav')}"
        if name in files or (only is not None and name not in only):
            continue
        match = _UTTERANCE.fullmatch(place.stem)
        speaker = match and (match[1] or place.parent.name)
        below_root = str((folder / path).relative_to(root))
        if match is None or not speaker:
            left_out.append((below_root, "other name: not genre-session-number"))
            continue
        session = f"{speaker}-{match[2]}-{match[3]}"
        files[name] = Found(below_root, {"speaker": speaker, "genre": match[2], "session": session})
    return files


def _enrolled(folder: Path, root: Path, averaged: dict[str, list[str]]) -> dict[str, Found]:
    """Return id -> file of the joined files that models are enrolled from."""
    files: dict[str, Found] = {}
    for path in sorted(audio_files(folder), key=wav_first):
        model = PurePath(path).stem
        genres = {PurePath(name).stem.split("-")[0] for name in averaged.get(model, [])}
        genre = "mixed"
        if len(genres) < 2:
            genre = next(iter(genres), "unknown")
        labels = {"speaker": model.split("-")[0], "genre": genre, "session": model}
        below_root = str((folder / path).relative_to(root))
        files.setdefault(f"enroll/{PurePath(path).with_suffix('.wav')}", Found(below_root, labels))
    return files


def _models(path: Path, left_out: Left, fields: range) -> dict[str, list[str]]:
    """Read enroll.lst or enroll.map: model -> utterances, by their ids."""
    models: dict[str, list[str]] = {}
    shape = "`model file ...`"
    for number, row in read_lines(path, left_out, shape=shape, fields=fields):
        if row[0] in models:
            left_out.append((f"{path.name}:{number}", f"model twice: {row[0]}"))
        else:
            models[row[0]] = [_with_wav(name) for name in row[1:]]
    return models


def _with_wav(name: str) -> str:
    """Return a name of a list as an id; some copies of the lists say flac."""
    return f"{name.removesuffix('.flac')}.wav" if name.endswith(".flac") else name


def _compare_release(release: Path, found: dict[str, Found], partial: bool) -> None:
    """Compare `data` of CN-Celeb1 with what it holds when it is complete.

    Raises:
        UserError: it holds something else, unless `partial`.
    """
    speakers = len({item.labels["speaker"] for item in found.values()})
    line = f"{release}: {len(found):,} utterances of {speakers:,} speakers"
    if (speakers, len(found)) == (SPEAKERS, UTTERANCES):
        print(f"{line}: CN-Celeb1, complete", file=sys.stderr)
        return
    refuse_unless_partial(
        f"{line}, where CN-Celeb1 has {UTTERANCES:,} of {SPEAKERS:,}",
        remedy="unpack what is missing, or go on with what is there",
        partial=partial,
    )


def _compare_genres(manifest: Manifest) -> None:
    """Print which genres of the test utterances are not as published."""
    genres = manifest.labels["genre"]
    tested = {name: genre for name, genre in genres.items() if name.startswith("test/")}
    compare_counts("cn_celeb", Manifest([], {"genre": tested}), {"genre": TEST_GENRES})


PART = prepare
