"""MUSAN: music, speech and noise for `augment.noise`: `speechssl prepare musan ROOT OUT`.

Snyder, Chen and Povey, "MUSAN: A music, speech, and noise corpus", arXiv 1510.08484
(OpenSLR 17). Licence: each file its own, Creative Commons or public domain, named in
the LICENSE of its folder. 660 files of music, 426 of speech and 930 of noise, 109 h.
`augment.noise=OUT` reads the kind of each from utt2kind: SNR ranges `snr`, `snr_music`
and `snr_speech`. (Babble is made of the training batch itself: `babble_prob`.)

Layout: `musan/{music,speech,noise}/<source>/*.wav`.
"""

from __future__ import annotations

from pathlib import Path

from speechssl.audio.walk import audio_files
from speechssl.corpora.listing import Found, folder_of
from speechssl.corpora.measuring import prepare_files, with_ids
from speechssl.corpora.named import compare_count
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError

COUNTS = {"music": 660, "speech": 426, "noise": 930}
"""Files of each kind in the release."""


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    kinds: tuple[str, ...] = ("noise", "music", "speech"),
    partial: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory with utt2kind (noise, music or speech) of MUSAN, for `augment.noise`.

    Files that cannot be read are left out, counted, and listed in OUT/skipped.tsv.

    Args:
        root: the folder `musan`, or one above it.
        out: the Kaldi directory to write.
        kinds: which of noise, music and speech.
        partial: go on with an incomplete corpus.
        check: decode every file, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no such folder, an unknown kind, or files are missing.
    """
    unknown = sorted(set(kinds) - set(COUNTS))
    if unknown or not kinds:
        raise UserError(f"--kinds {' '.join(unknown)}: choose from {', '.join(COUNTS)}")
    root = folder_of(Path(root), ("music", "speech", "noise"), "musan")
    found = []
    for kind in kinds:
        paths = sorted(audio_files(root / kind))
        compare_count(root / kind, len(paths), "MUSAN", COUNTS[kind], partial)
        found += [Found(f"{kind}/{path}", {"kind": kind}) for path in paths]
    return prepare_files(with_ids(found), root, Path(out), check=check, jobs=jobs)


PART = prepare
