"""VoxCeleb2: 5,994 speakers, trained on without labels: `speechssl prepare voxceleb2 ROOT OUT`.

Chung, Nagrani and Zisserman, "VoxCeleb2: Deep speaker recognition", Interspeech 2018.
Licence: CC BY 4.0 for the annotations, the audio remains its owners'. Development part
1,092,009 utterances of 5,994 speakers (2,360 h), test part 36,237 of 118. It comes as
AAC, which is read through PyAV, and is often converted to wav, which loads many times
faster.

Layout: `id0NNNN/<video>/NNNNN.m4a` (or wav, flac ...) at any depth below the root.
"""

from __future__ import annotations

from pathlib import Path

from speechssl.corpora import voxceleb
from speechssl.corpora.measuring import prepare_files
from speechssl.corpora.voxceleb import Published
from speechssl.data.manifest import Manifest

DEV = Published("VoxCeleb2 dev", 5994, 1092009)
TEST = Published("VoxCeleb2 test", 118, 36237)
BOTH = Published(
    "VoxCeleb2 dev and test", DEV.speakers + TEST.speakers, DEV.utterances + TEST.utterances
)


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    partial: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of VoxCeleb2.

    Give the folder of the development part alone to train as published. The numbers of
    speakers and utterances are compared with the published ones before any file is
    read. Files that cannot be read are left out, counted, and listed in
    OUT/skipped.tsv. utt2spk is for evaluation: training does not open it.

    Args:
        root: the folder that the corpus was unpacked into; dev/aac, wav, parts ..., at
            any depth.
        out: the Kaldi directory to write.
        partial: go on with an incomplete corpus.
        check: decode every file, to find silent and damaged ones (hours); otherwise
            only headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no such folder, nothing of VoxCeleb2 in it, or not all of it.
    """
    root = Path(root)
    files = voxceleb.find(root, 2, jobs)
    voxceleb.check_counts(root, files, (DEV, TEST, BOTH), partial)
    return prepare_files(sorted(files.items()), root, Path(out), check=check, jobs=jobs)


PART = prepare
