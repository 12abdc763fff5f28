"""CREMA-D: 91 actors, twelve sentences, six emotions; 7,442 clips.

The Crowd-sourced Emotional Multimodal Actors Dataset (Cao et al. 2014, IEEE
Transactions on Affective Computing 5(4); github.com/CheyneyComputerScience/CREMA-D),
Open Database License. 48 men and 43 women. Angry, disgusted, fearful, happy and sad
1,271 clips each, neutral 1,087; labels say what was intended.

Layout: `AudioWAV/1001_DFA_ANG_XX.wav`: actor, sentence, emotion, level (LO, MD, HI, XX
for none); `VideoDemographics.csv` (columns ActorID, Age, Sex, ...), if it is there,
gives utt2gender. One clip of the release, 1076_MTI_SAD_XX, is silent and is skipped. No
official folds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found
from speechssl.corpora.named import compare_counts, named_files, read_columns
from speechssl.data.manifest import Manifest

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
PUBLISHED = dict.fromkeys(EMOTIONS.values(), 1271) | {"neutral": 1087}
"""Clips of each emotion in the release."""

ACTORS = 91


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    classes: Literal["six", "four"] = "six",
    trim: float | None = 35.0,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of CREMA-D.

    Labels: utt2spk, utt2emotion, utt2sentence, utt2level, utt2gender.

    Args:
        root: the folder of the release (with AudioWAV).
        out: the Kaldi directory to write.
        classes: all six emotions, or four (angry, happy, neutral, sad); the clips of
            others are left out.
        trim: cut both ends where the level is this many dB below the loudest; 0 cuts
            nothing.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no file is named as CREMA-D names its clips, or the table of actors
            cannot be read.
    """
    root = Path(root)
    genders = _genders(root / "VideoDemographics.csv")
    kept = tuple(EMOTIONS.values()) if classes == "six" else FOUR
    pattern = r"(1\d\d\d)_([A-Z]{3})_(\w{3})_(LO|MD|HI|XX?)"
    found = []
    for file in named_files(root, pattern, "1001_DFA_ANG_XX.wav").values():
        actor, sentence, code, level = file.fields
        emotion = EMOTIONS.get(code)
        if emotion is None or emotion not in kept:
            continue
        labels = {"speaker": actor, "sentence": sentence, "level": LEVELS[level]}
        if genders:
            labels["gender"] = genders.get(actor, "unknown")
        labels["emotion"] = emotion
        found.append(Found(file.path, labels))
    manifest = write_directory(
        found, root, Path(out), trim=trim or None, min_seconds=0.1, jobs=jobs
    )
    _compare_actors(manifest)
    compare_counts("crema_d", manifest, {"emotion": {name: PUBLISHED[name] for name in kept}})
    return manifest


def _compare_actors(manifest: Manifest) -> None:
    """Compare the number of actors with the published one."""
    actors = dict.fromkeys(manifest.labels["spk"].values(), "actors")
    compare_counts("crema_d", Manifest([], {"corpus": actors}), {"corpus": {"actors": ACTORS}})


def _genders(path: Path) -> dict[str, str]:
    """Return f or m by actor; {} if there is no such table."""
    if not path.exists():
        return {}
    rows = read_columns(path, ("ActorID", "Sex"))
    return {row["ActorID"]: row["Sex"][:1].lower() or "unknown" for row in rows}


PART = prepare
