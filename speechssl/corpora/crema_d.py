"""CREMA-D: 91 actors, twelve sentences, six emotions; 7,442 clips.

The Crowd-sourced Emotional Multimodal Actors Dataset (Cao et al. 2014, IEEE Transactions on
Affective Computing 5(4); github.com/CheyneyComputerScience/CREMA-D), Open Database License. 48 men
and 43 women. Angry, disgusted, fearful, happy and sad 1,271 clips each, neutral 1,087; labels say
what was intended.

Layout: `AudioWAV/1001_DFA_ANG_XX.wav`: actor, sentence, emotion, level (LO, MD, HI, XX for none);
`VideoDemographics.csv` (ActorID, Age, Sex, ...) gives utt2gender if it is there. One clip of the
release, 1076_MTI_SAD_XX, is silent and is skipped. No official folds.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found
from speechssl.corpora.named import compare_counts, named_files
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError

EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
FOUR = ("angry", "happy", "neutral", "sad")
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
PUBLISHED = {name: 1087 if name == "neutral" else 1271 for name in EMOTIONS.values()}


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    classes: Literal["six", "four"] = "six",
    trim: float | None = 35.0,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of CREMA-D: utt2spk, utt2emotion, utt2sentence, utt2level,
    utt2gender.

    Args:
        root: the folder of the release (with AudioWAV).
        out: the Kaldi directory to write.
        classes: all six emotions, or four (angry, happy, neutral, sad; the other clips are left
            out).
        trim: cut both ends where the level is this many dB below the loudest; 0 cuts nothing.
        jobs: files at a time; all cores if not given.

    Raises:
        UserError: no file is named as CREMA-D names its clips, or the table of actors cannot be
            read.
    """
    root = Path(root)
    genders = _genders(root / "VideoDemographics.csv")
    kept = EMOTIONS.values() if classes == "six" else FOUR
    found = []
    files = named_files(root, r"(1\d\d\d)_([A-Z]{3})_(\w{3})_(LO|MD|HI|XX?)", "1001_DFA_ANG_XX.wav")
    for path, match in files.values():
        actor, sentence, code, level = match.groups()
        labels = {"speaker": actor, "sentence": sentence, "level": LEVELS[level]}
        if genders:
            labels["gender"] = genders.get(actor, "unknown")
        if EMOTIONS.get(code) in kept:
            found.append(Found(path, labels | {"emotion": EMOTIONS[code]}))
    manifest = write_directory(
        found, root, Path(out), trim=trim or None, min_seconds=0.1, jobs=jobs
    )
    actors = Manifest([], {"corpus": dict.fromkeys(manifest.labels["spk"].values(), "actors")})
    compare_counts("crema_d", actors, {"corpus": {"actors": 91}})
    compare_counts("crema_d", manifest, {"emotion": {name: PUBLISHED[name] for name in kept}})
    return manifest


def _genders(path: Path) -> dict[str, str]:
    """Actor -> f or m; {} if there is no such table."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if not {"ActorID", "Sex"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path}: has no columns ActorID and Sex; take the release's own file")
        return {row["ActorID"].strip(): row["Sex"].strip()[:1].lower() for row in rows}


PART = prepare
