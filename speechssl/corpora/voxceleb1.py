"""VoxCeleb1: 1,251 speakers, and the trials O, E and H.

`speechssl prepare voxceleb1 ROOT OUT --lists DIR`.

Nagrani, Chung and Zisserman, "VoxCeleb: a large-scale speaker identification dataset",
Interspeech 2017. Licence: CC BY 4.0 for the annotations, the audio remains its owners'.
Development part 148,642 utterances of 1,211 speakers, test part 4,874 of 40. The lists
are the corpus' own (`meta/` of its site): O from the test part, E and H from both;
"original" are those before the labels were cleaned. Their counts and MD5 sums are those
that PaddleSpeech's VoxCeleb recipe and downloader publish.

Layout: `id1NNNN/<video>/NNNNN.wav` (or flac, m4a ...) at any depth below the root.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from speechssl.corpora import voxceleb
from speechssl.corpora.measuring import prepare_files, refuse_file
from speechssl.corpora.official import AudioCheck
from speechssl.corpora.partial import NOT_COMPARABLE, refuse_unless_partial
from speechssl.corpora.voxceleb import Published
from speechssl.data.manifest import Manifest
from speechssl.data.trials import Trials, read_trials, write_trials
from speechssl.errors import UserError

DEV = Published("VoxCeleb1 dev", 1211, 148642)
TEST = Published("VoxCeleb1 test", 40, 4874)
ALL = Published("VoxCeleb1", DEV.speakers + TEST.speakers, DEV.utterances + TEST.utterances)


@dataclass(frozen=True, slots=True)
class List:
    """An official list of trials.

    Attributes:
        file: its name.
        trials: how many there are.
        targets: how many of them are targets.
        md5: checksum of the file.
    """

    file: str
    trials: int
    targets: int
    md5: str


LISTS = {
    "O": List("veri_test2.txt", 37611, 18802, "b73110731c9223c1461fe49cb48dddfc"),
    "E": List("list_test_all2.txt", 579818, 289921, "a53e059deb562ffcfc092bf5d90d9f3a"),
    "H": List("list_test_hard2.txt", 550894, 275488, "857790e09d579a68eb2e339a090343c8"),
    "O-original": List("veri_test.txt", 37720, 18860, "29fc7cc1c5d59f0816dc15d6e8be60f7"),
    "E-original": List("list_test_all.txt", 581480, 290743, "b9ecf7aa49d4b656aa927a8092844e4a"),
    "H-original": List("list_test_hard.txt", 552536, 276270, "21c341b6b2168eea2634df0fb4b8fff1"),
}


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    lists: str | Path | None = None,
    partial: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of VoxCeleb1, and its trials OUT/trials-O, -E and -H.

    Of the official lists (veri_test2.txt, list_test_all2.txt, list_test_hard2.txt, and
    without the 2 the original ones, which become trials-O-original and so on) those
    that are there are taken. An EER on fewer trials is not comparable, so a list of
    another length, and trials without audio, are refused; the utterances are listed in
    OUT/missing.tsv. The test part alone gives O.

    Args:
        root: the folder that the corpus was unpacked into; vox1_dev_wav, vox1_test_wav
            ..., at any depth.
        out: the Kaldi directory to write.
        lists: the folder of the lists; ROOT if not given.
        partial: go on with an incomplete corpus, and leave out the trials without
            audio.
        check: decode every file, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no such folder, nothing of VoxCeleb1 in it, not all of it, or trials
            without audio.
    """
    root = Path(root)
    out = Path(out)
    refuse_file(out)
    files = voxceleb.find(root, 1, jobs)
    part = voxceleb.check_counts(root, files, (ALL, TEST, DEV), partial)
    folder = root if lists is None else Path(lists)
    trials = _read_lists(folder, _lists_of(part), lists is not None, partial)
    if not partial:  # refuse before the headers are read, which takes a while
        _with_audio(trials, files.keys(), out, partial)
    manifest = prepare_files(sorted(files.items()), root, out, check=check, jobs=jobs)
    usable = _with_audio(trials, set(manifest.ids), out, partial)
    for name, kept in usable.items():
        write_trials(kept, out / f"trials-{name}", style="voxceleb")
    return manifest


def _lists_of(part: Published | None) -> list[str]:
    """Return the lists whose trials can be in a part of the corpus; None may be any part."""
    if part in (None, ALL):
        return list(LISTS)
    if part == TEST:
        return [name for name in LISTS if name.startswith("O")]
    return []


def _read_lists(folder: Path, names: list[str], given: bool, partial: bool) -> dict[str, Trials]:
    """Read those of the lists that a folder holds, and compare them with what is published.

    Args:
        folder: of the lists.
        names: which ones are looked for.
        given: True if the user named the folder, which must then hold one of them.
        partial: accept lists of another length.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such directory; give the folder of veri_test2.txt and the other lists"
        )
    found = {}
    for name in names:
        path = folder / LISTS[name].file
        if path.exists():
            found[name] = read_trials(path)
            _compare(path, name, found[name], partial)
    if names and not found:
        absent = f"{folder}: none of {', '.join(LISTS[name].file for name in names)}"
        if given:
            raise UserError(f"{absent}; download them from the corpus' site")
        print(f"{absent}: no trials are written (--lists DIR)", file=sys.stderr)
    return found


def _compare(path: Path, name: str, trials: Trials, partial: bool) -> None:
    """Print how a list compares with the published one.

    Raises:
        UserError: it has another number of trials, unless `partial`.
    """
    published = LISTS[name]
    count = len(trials)
    targets = int(trials.target.sum())
    checksum = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if checksum == published.md5:
        print(f"{path}: VoxCeleb1-{name}, {count:,} trials, checksum as published", file=sys.stderr)
    elif count == published.trials and targets == published.targets:
        print(
            f"{path}: VoxCeleb1-{name}, {count:,} trials, {targets:,} of them targets, as"
            " published, but its checksum is another: compare it with the original before you"
            " publish figures",
            file=sys.stderr,
        )
    else:
        difference = (
            f"{path}: {count:,} trials, {targets:,} of them targets, where VoxCeleb1-{name} has"
            f" {published.trials:,} and {published.targets:,}"
        )
        refuse_unless_partial(
            difference,
            remedy="download it again, or take it as it is",
            partial=partial,
            consequence=NOT_COMPARABLE,
        )


def _with_audio(
    lists: dict[str, Trials], ids: Collection[str], out: Path, partial: bool
) -> dict[str, Trials]:
    """Return the lists without the trials whose audio is missing.

    OUT/missing.tsv says which utterances are missing.

    Args:
        lists: trials by the name of the list.
        ids: utterances with audio.
        out: the Kaldi directory.
        partial: print what is left out on standard error, and go on.

    Raises:
        UserError: a trial has no audio, unless `partial`.
    """
    audio = AudioCheck(ids)
    kept = {name: audio.trials(name, trials) for name, trials in lists.items()}
    audio.report(out, partial, "unpack the rest (E and H need both parts)")
    return {name: trials for name, trials in kept.items() if len(trials)}


PART = prepare
