"""RIRS_NOISES: room impulse responses for `augment.rir`: `speechssl prepare rirs_noises ROOT OUT`.

Ko, Peddinti, Povey, Seltzer and Khudanpur, "A study on data augmentation of reverberant
speech for robust speech recognition", ICASSP 2017 (OpenSLR 28, rirs_noises.zip).
Licence: Apache 2.0. 60,000 simulated responses
(`simulated_rirs/{small,medium,large}room`, 20,000 each) and some hundred real ones
(`real_rirs_isotropic_noises`, names with `rir`), of which those with several channels
are left out: the mean of several microphones is not the response of a room. Its
point-source noises are a part of MUSAN.

Layout: `RIRS_NOISES/simulated_rirs/<size>/<room>/*.wav` and
`RIRS_NOISES/real_rirs_isotropic_noises/*.wav`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from speechssl.audio import reading
from speechssl.audio.walk import audio_files
from speechssl.corpora.listing import Found, folder_of
from speechssl.corpora.measuring import Skip, Usable, prepare_files, with_ids
from speechssl.corpora.named import compare_count
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError

SIMULATED = 60000
"""Simulated responses in the release."""


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    real: bool = False,
    partial: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of the room impulse responses of RIRS_NOISES, for `augment.rir`.

    utt2kind says simulated or real, utt2room the simulated room. Files that cannot be
    read are left out, counted, and listed in OUT/skipped.tsv. Training takes 4,000 of
    them, evenly spaced.

    Args:
        root: the folder `RIRS_NOISES`, or one above it.
        out: the Kaldi directory to write.
        real: take the real responses with one channel as well.
        partial: go on with an incomplete corpus.
        check: decode every file, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no such folder, or files are missing.
    """
    root = folder_of(Path(root), ("simulated_rirs",), "RIRS_NOISES")
    files = _simulated(root / "simulated_rirs")
    compare_count(root / "simulated_rirs", len(files), "RIRS_NOISES", SIMULATED, partial)
    if real:
        files += _real(root / "real_rirs_isotropic_noises")
    return prepare_files(
        with_ids(files), root, Path(out), check=check, jobs=jobs, reject=_several_channels
    )


def _simulated(folder: Path) -> list[Found]:
    """Return the simulated responses; the folders above them name the room."""
    files = []
    for path in sorted(audio_files(folder)):
        labels = {"kind": "simulated"}
        room = re.sub(r"\s", "_", path.rpartition("/")[0])
        if room:
            labels["room"] = room
        files.append(Found(f"{folder.name}/{path}", labels))
    return files


def _real(folder: Path) -> list[Found]:
    """Return the real responses: the files with `rir` in their names.

    Raises:
        UserError: there are none.
    """
    files = []
    for path in sorted(audio_files(folder)):
        if "rir" in PurePath(path).name.lower():
            files.append(Found(f"{folder.name}/{path}", {"kind": "real"}))
    if not files:
        raise UserError(
            f"{folder}: no responses (names with rir) in it; unpack it again or leave out --real"
        )
    return files


def _several_channels(found: Usable) -> Skip | None:
    """Reject a response with several channels.

    Only real ones have several, so the simulated ones are not opened again.
    """
    if found.labels["kind"] == "simulated":
        return None
    channels = reading.info(found.path).channels
    if channels == 1:
        return None
    return Skip("several channels", f"{channels} microphones, whose mean is not a room's response")


PART = prepare
