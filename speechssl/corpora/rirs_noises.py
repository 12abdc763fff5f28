"""RIRS_NOISES: room impulse responses for `augment.rir`: `speechssl prepare rirs_noises ROOT OUT`.

Ko, Peddinti, Povey, Seltzer and Khudanpur, "A study on data augmentation of reverberant speech for
robust speech recognition", ICASSP 2017 (OpenSLR 28, rirs_noises.zip). Licence: Apache 2.0. 60,000
simulated responses (`simulated_rirs/{small,medium,large}room`, 20,000 each) and some hundred real
ones (`real_rirs_isotropic_noises`, names with `rir`), of which those with several channels are left
out: the mean of several microphones is no response of a room. Its point-source noises are a part of
MUSAN.
"""

from __future__ import annotations

import sys
from pathlib import Path

from speechssl.audio import reading
from speechssl.audio.walk import audio_files
from speechssl.corpora.listing import Found, folder_of
from speechssl.corpora.measuring import Skip, Usable, prepare_files
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError

SIMULATED = 60000


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

    utt2kind says simulated or real, utt2room the simulated room. Files that cannot be read are left
    out, counted, and listed in OUT/skipped.tsv. Training takes 4,000 of them, evenly spaced.

    Args:
        root: the folder `RIRS_NOISES`, or one above it.
        out: the Kaldi directory to write.
        real: the real responses with one channel as well.
        partial: go on with an incomplete corpus.
        check: decode every file, to find silent and damaged ones; otherwise only headers are read.
        jobs: files at a time; all cores if not given.

    Raises:
        UserError: no such folder, or files are missing.
    """
    root = folder_of(Path(root), ("simulated_rirs",), "RIRS_NOISES")
    files = []
    for path in sorted(audio_files(root / "simulated_rirs")):
        room = "/".join(path.split("/")[:-1]).replace(" ", "_")
        labels = {"kind": "simulated", **({"room": room} if room else {})}
        files.append((f"simulated_rirs/{path}", Found(f"simulated_rirs/{path}", labels)))
    if len(files) != SIMULATED:
        text = (
            f"{root / 'simulated_rirs'}: {len(files):,} files, where RIRS_NOISES has {SIMULATED:,}"
        )
        if not partial:
            raise UserError(f"{text}; unpack it again, or go on with what is there: --partial")
        print(f"{text} (--partial)", file=sys.stderr)
    if real:
        folder = root / "real_rirs_isotropic_noises"
        names = sorted(
            path for path in audio_files(folder) if "rir" in path.rsplit("/", 1)[-1].lower()
        )
        if not names:
            raise UserError(
                f"{folder}: no responses (names with rir) in it; unpack it again or leave out"
                " --real"
            )
        files += [
            (f"{folder.name}/{name}", Found(f"{folder.name}/{name}", {"kind": "real"}))
            for name in names
        ]
    return prepare_files(files, root, Path(out), check=check, jobs=jobs, unfit=_several_channels)


def _several_channels(found: Usable) -> Skip | None:
    """Only real responses have several channels; the simulated ones are not opened again."""
    if found.labels["kind"] == "simulated":
        return None
    channels = reading.info(found.path).channels
    return (
        None
        if channels == 1
        else Skip("several channels", f"{channels} microphones, whose mean is no room")
    )


PART = prepare
