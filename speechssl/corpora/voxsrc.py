"""VoxSRC: the trial lists of the VoxCeleb Speaker Recognition Challenges, 2019 to 2023.

Huh et al., "The VoxCeleb Speaker Recognition Challenge: a retrospective", 2024
(arXiv:2408.14886; mm.kaist.ac.kr/datasets/voxceleb/voxsrc). Licence as VoxCeleb's: CC BY
4.0 for the annotations, the audio remains its owners'. 2020 to 2023 have validation
lists of their own; that of 2019 was VoxCeleb1's lists (`prepare voxceleb1`). `speechssl
prepare voxsrc ROOT OUT --voxceleb1 DIR`.

Layout: ROOT holds the lists and the audio that came with them, at any depth, and
VoxCeleb1 lies there or in DIR. A list is `1 a.wav b.wav` a line (1 same speaker, 0
another), or `a.wav b.wav` where the answers are not given.

* 2020: `data/verif/trials.txt` of the kit VoxSRC2020, which names
  `voxceleb1/id10136/kDIpLcekk9Q/00011.wav` and `voxceleb1_cd/id10545/000912.wav`;
* 2021: `voxsrc2021_val.txt` (`id10341/rX4LkvzySSM/00006.wav`);
* 2022: `voxsrc2022_dev.txt` or `voxsrc2022_dev_fixed.txt` (such files, and
  `VoxSRC2022_dev/dev_00000.wav`), and blind `Track12_blind.txt` (files in
  `Track12_test_data`);
* 2023: `VoxSRC2023_val.txt` (files in `VoxSRC2023_val`).

Confirmed from the kit of 2020 (its readme), hyperion's data preparation (2022), and
lines and names that scripts of participants quote (2020, 2021, 2022, 2023); the audio
and the lists were not seen here. As others counted them, the list of 2020 has 263,485
trials, that of 2022 306,432, that of 2023 49,987: printed beside what is found,
never enforced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from speechssl.audio.walk import audio_files
from speechssl.corpora.listing import Found, check_folder
from speechssl.corpora.measuring import prepare_files, refuse_file
from speechssl.corpora.named import wav_first
from speechssl.corpora.official import AudioCheck, Left, read_lines, refuse_line
from speechssl.data.manifest import Manifest
from speechssl.data.trials import Trials, write_pairs, write_trials
from speechssl.errors import UserError

NAMES = {
    "voxsrc2020_master_data_verif_trials.txt": "2020-val",
    "voxsrc2020_final_pairs.txt": "2020-test",
    "voxsrc2021_val.txt": "2021-val",
    "voxsrc2022_dev.txt": "2022-val",
    "voxsrc2022_dev_fixed.txt": "2022-val-fixed",
    "track12_blind.txt": "2022-test",
    "voxsrc2023_val.txt": "2023-val",
    "voxsrc2023_track12_val.txt": "2023-val",
    "voxsrc2023_final_fixed.txt": "2023-test",
}
"""File name of a list, in small letters -> the name that its trials get."""

COUNTED = {"2020-val": 263485, "2022-val": 306432, "2023-val": 49987}
"""Trials of a list as others counted them."""

_SPEAKER = re.compile(r"(?:^|/)(id\d{5})/")
_ANSWERS = {"1": True, "0": False}
_SHAPE = "`1|0 file file`, nor `file file` in a list without answers"


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    lists: Sequence[Path] | None = None,
    voxceleb1: str | Path | None = None,
    partial: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of the files that VoxSRC's lists name, and their trials.

    A list with answers becomes OUT/trials-NAME (trials-2021-val), one without becomes
    OUT/pairs-NAME, lines `file file`: nothing can be measured on it, `speechssl score EMB
    --trials OUT/pairs-NAME` writes the scores to hand in. Ids are the names in the lists,
    but without `voxceleb1/`, so that an utterance of VoxCeleb1 has the id that `prepare
    voxceleb1` gives it. utt2spk has the speakers of files below a folder idNNNNN; other
    files are their own speaker, which is no label. A file whose name fits several files of
    ROOT is left out and listed. An EER on fewer trials is not comparable, so trials
    without audio are refused, and listed in OUT/missing.tsv.

    Args:
        root: the folder of the audio that came with the lists, and of the lists.
        out: the Kaldi directory to write.
        lists: the lists; by default those in ROOT (and its data/verif) that have a name
            that a challenge gave them. Others are named after their file.
        voxceleb1: the folder that VoxCeleb1 was unpacked into, if not below ROOT.
        partial: leave out the trials without audio.
        check: decode every file, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no such folder, no list, a list without a trial, or trials without audio.
    """
    root = Path(root)
    out = Path(out)
    refuse_file(out)
    roots = [root] if voxceleb1 is None else [root, Path(voxceleb1)]
    for folder in roots:
        check_folder(folder)
    left_out: Left = []
    trials: dict[str, Trials] = {}
    blind: dict[str, Trials] = {}
    for name, path in _named_lists(root, lists).items():
        found, has_answers = _read_list(path, left_out)
        (trials if has_answers else blind)[name] = found
        _print_count(path, name, len(found), has_answers)
    files = _find([*trials.values(), *blind.values()], roots, left_out)
    manifest = prepare_files(
        sorted(files.items()), root, out, check=check, jobs=jobs, left_out=left_out
    )
    audio = AudioCheck(manifest.ids)
    kept = {name: audio.trials(name, found) for name, found in trials.items()}
    kept_blind = {name: audio.trials(name, found) for name, found in blind.items()}
    audio.report(out, partial, "unpack the rest, and name the folder of VoxCeleb1: --voxceleb1")
    _write(out, kept, kept_blind)
    return manifest


def _write(out: Path, trials: dict[str, Trials], blind: dict[str, Trials]) -> None:
    """Write the lists that have a trial."""
    for name, found in trials.items():
        if len(found):
            write_trials(found, out / f"trials-{name}", style="voxceleb")
    for name, found in blind.items():
        if len(found):
            write_pairs(found, out / f"pairs-{name}")


def _named_lists(root: Path, lists: Sequence[Path] | None) -> dict[str, Path]:
    """Return name -> list, of those that were given or of those in `root` with a known name.

    Raises:
        UserError: there is none, or two have one name.
    """
    if lists is None:
        lists = _known_lists(root)
    if not lists:
        raise UserError(
            f"{root}: no list such as voxsrc2021_val.txt in it; give the lists: --lists FILE ..."
            " (2019 was validated on VoxCeleb1's own: prepare voxceleb1)"
        )
    named: dict[str, Path] = {}
    for path in lists:
        name = NAMES.get(path.name.lower(), re.sub(r"[^\w.-]", "_", path.stem))
        if path.parts[-3:] == ("data", "verif", "trials.txt"):
            name = "2020-val"
        if name in named:
            raise UserError(f"{path}: is called {name}, as {named[name]} is; give one: --lists")
        named[name] = path
    return named


def _known_lists(root: Path) -> list[Path]:
    """Return the lists in `root` and `root/data/verif` that a challenge named."""
    inside = sorted(path for path in root.iterdir() if path.name.lower() in NAMES)
    kit = root / "data" / "verif" / "trials.txt"
    return [*inside, kit] if kit.is_file() else inside


def _read_list(path: Path, left_out: Left) -> tuple[Trials, bool]:
    """Return the trials of a list, and whether it has answers; without, no trial is a target.

    The first line decides which of the two it is.
    """
    enrol = []
    test = []
    target = []
    width = 0
    for number, row in read_lines(path, left_out, shape=_SHAPE, fields=(2, 3)):
        width = width or len(row)
        if len(row) != width or (width == 3 and row[0] not in _ANSWERS):
            refuse_line(path, number, row, _SHAPE, left_out)
            continue
        enrol.append(row[-2].removeprefix("voxceleb1/"))
        test.append(row[-1].removeprefix("voxceleb1/"))
        target.append(width == 3 and _ANSWERS[row[0]])
    if not target:
        raise UserError(f"{path}: no line is {_SHAPE}; take a list of the challenge")
    return Trials(np.array(enrol), np.array(test), np.array(target)), width == 3


def _print_count(path: Path, name: str, count: int, has_answers: bool) -> None:
    """Print how many trials a list has, and how many others counted."""
    line = f"{path}: {name}, {count:,} trials"
    if name in COUNTED and COUNTED[name] != count:
        line += f" (others counted {COUNTED[name]:,})"
    if not has_answers:
        line += ", without answers: they can be scored, not measured"
    print(line, file=sys.stderr)


def _find(lists: Iterable[Trials], roots: Sequence[Path], left_out: Left) -> dict[str, Found]:
    """Return name -> file, of the names in lists whose file is below one of the folders.

    A name fits a file of any format whose path ends in it.

    Raises:
        UserError: none is.
    """
    by_end: dict[tuple[str, ...], dict[PurePath, str]] = {}
    for root in roots:
        resolved = root.resolve()  # one folder may lie in the other
        for path in sorted(audio_files(root), key=wav_first):
            stem = PurePath(resolved / path).with_suffix("")
            for end in (stem.parts[-1:], stem.parts[-2:]):
                by_end.setdefault(end, {}).setdefault(stem, str(root.absolute() / path))
    wanted = sorted({name for trials in lists for name in trials.ids()})
    files = {}
    for name in wanted:
        parts = PurePath(name).with_suffix("").parts
        candidates = by_end.get(parts[-2:], {})
        fitting = [path for stem, path in candidates.items() if stem.parts[-len(parts) :] == parts]
        if len(fitting) > 1:
            left_out.append((name, f"several files: such as {fitting[0]} and {fitting[1]}"))
        elif fitting:
            speaker = _SPEAKER.search(name)
            files[name] = Found(fitting[0], {"speaker": speaker[1] if speaker else name})
    if not files:
        raise UserError(
            f"{roots[0]}: none of the {len(wanted):,} files of the lists is there; unpack the audio"
            " of the challenge into it, and name the folder of VoxCeleb1: --voxceleb1"
        )
    return files


PART = prepare
