"""IEMOCAP: five sessions of two actors who improvise and act; 10,039 turns.

The Interactive Emotional Dyadic Motion Capture database (Busso et al. 2008, Language
Resources and Evaluation 42; sail.usc.edu/iemocap), by a licence for research that has
to be requested. The label is that of most annotators: angry 1,103, happy 595, excited
1,041, sad 1,084, neutral 1,708, frustrated 1,849, surprised 107, fearful 40, disgusted
2, other 3; 2,507 turns without agreement have none. The usual four classes (angry,
happy with excited, neutral, sad) have 5,531 turns.

Layout: `Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav`, and in
`Session1/dialog/EmoEvaluation/*.txt` lines
`[6.29 - 8.23] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]`. The speaker is the session with
the letter before the turn's number. The official folds are the sessions (utt2fold).
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Literal

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found
from speechssl.corpora.named import compare_counts, named_files, report_missing
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError

EMOTIONS = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "neu": "neutral",
    "fru": "frustrated",
    "sur": "surprised",
    "fea": "fearful",
    "dis": "disgusted",
    "oth": "other",
}
STYLES = {"impro": "improvised", "script": "scripted"}
PUBLISHED = {
    "four": {"angry": 1103, "happy": 1636, "sad": 1084, "neutral": 1708},
    "all": {
        "angry": 1103,
        "happy": 595,
        "excited": 1041,
        "sad": 1084,
        "neutral": 1708,
        "frustrated": 1849,
        "surprised": 107,
        "fearful": 40,
        "disgusted": 2,
        "other": 3,
    },
}
"""Turns of each class in the release, for both settings of `classes`."""

_LABEL_LINE = re.compile(r"\[\d+\.\d+ - \d+\.\d+\]\s+(\S+)\s+([a-z]{3})\s+\[")


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    classes: Literal["four", "all"] = "four",
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of the labelled turns of IEMOCAP.

    Labels: utt2spk, utt2emotion, utt2style, utt2gender, utt2fold.

    Args:
        root: the folder of the release (with Session1 to Session5).
        out: the Kaldi directory to write.
        classes: four (angry, happy with excited, neutral, sad), or all; turns of others
            are left out.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no file is named as IEMOCAP names its turns, or there are no label
            files.
    """
    root = Path(root)
    pattern = r"Ses0([1-5])[FM]_(impro|script)\w*_([FM])\d+"
    files = named_files(root, pattern, "Ses01F_impro01_F000.wav")
    codes = _codes(root)
    report_missing("iemocap", codes, files, "EmoEvaluation")
    found = []
    for name, file in files.items():
        session, style, letter = file.fields
        emotion = EMOTIONS.get(codes.get(name, ""))
        if classes == "four" and emotion == "excited":
            emotion = "happy"
        if emotion is None or emotion not in PUBLISHED[classes]:
            continue
        labels = {
            "speaker": f"Ses0{session}{letter}",
            "fold": f"session{session}",
            "gender": letter.lower(),
            "style": STYLES[style],
            "emotion": emotion,
        }
        found.append(Found(file.path, labels))
    manifest = write_directory(found, root, Path(out), min_seconds=0.1, jobs=jobs)
    compare_counts("iemocap", manifest, {"emotion": PUBLISHED[classes]})
    return manifest


def _codes(root: Path) -> dict[str, str]:
    """Return the code of the emotion of each turn, from the label files."""
    codes: dict[str, str] = {}
    # `Path.glob` would not follow a link to a session, as the walk for the audio does.
    for name in sorted(glob.glob("**/EmoEvaluation/*.txt", root_dir=root, recursive=True)):
        text = (root / name).read_text(encoding="utf-8", errors="replace")
        codes.update(_LABEL_LINE.findall(text))
    if not codes:
        raise UserError(
            f"{root}: no labels in Session*/dialog/EmoEvaluation/*.txt; give the whole release"
        )
    return codes


PART = prepare
