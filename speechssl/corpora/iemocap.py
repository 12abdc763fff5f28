"""IEMOCAP: five sessions of two actors who improvise and act.

10,039 turns, 5,531 in the usual four classes.

The Interactive Emotional Dyadic Motion Capture database (Busso et al. 2008, Language Resources and
Evaluation 42; sail.usc.edu/iemocap), by a licence for research that is asked for. The label is what
most annotators said: angry 1,103, happy 595, excited 1,041, sad 1,084, neutral 1,708, frustrated
1,849, surprised 107, fearful 40, disgusted 2, other 3; 2,507 turns without agreement have none.

Layout: `Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav`, and in
`Session1/dialog/EmoEvaluation/*.txt` lines `[6.29 - 8.23] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]`.
The speaker is the session with the letter of the turn's end. The official folds are the sessions
(utt2fold).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found
from speechssl.corpora.named import compare_counts, missing_files, named_files
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
PUBLISHED = {
    "four": {"angry": 1103, "happy": 1636, "sad": 1084, "neutral": 1708},
    "all": dict(
        zip(EMOTIONS.values(), (1103, 595, 1041, 1084, 1708, 1849, 107, 40, 2, 3), strict=True)
    ),
}
_LINE = re.compile(r"\[\d+\.\d+ - \d+\.\d+\]\s+(\S+)\s+([a-z]{3})\s+\[")


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    classes: Literal["four", "all"] = "four",
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of labelled turns: utt2spk, utt2emotion, utt2style, utt2gender,
        utt2fold.

    Args:
        root: the folder of the release (with Session1 to Session5).
        out: the Kaldi directory to write.
        classes: four (angry, happy with excited, neutral, sad), or all. Turns of others are left
            out.
        jobs: files at a time; all cores if not given.

    Raises:
        UserError: no turns, or no label files.
    """
    root = Path(root)
    pattern = r"Ses0([1-5])[FM]_(impro|script)\w*_([FM])\d+"
    files = named_files(root, pattern, "Ses01F_impro01_F000.wav")
    codes = _codes(root)
    missing_files("iemocap", codes, files, "EmoEvaluation")
    found = []
    for name, (path, match) in files.items():
        session, style, letter = match.groups()
        labels = {
            "speaker": f"Ses0{session}{letter}",
            "fold": f"session{session}",
            "gender": letter.lower(),
        }
        labels["style"] = {"impro": "improvised", "script": "scripted"}[style]
        emotion = _class(EMOTIONS.get(codes.get(name, "")), classes)
        if emotion is not None:
            found.append(Found(path, labels | {"emotion": emotion}))
    manifest = write_directory(found, root, Path(out), min_seconds=0.1, jobs=jobs)
    compare_counts("iemocap", manifest, {"emotion": PUBLISHED[classes]})
    return manifest


def _class(emotion: str | None, classes: str) -> str | None:
    """The class of an emotion, None if it is in none."""
    if classes == "four":
        emotion = "happy" if emotion == "excited" else emotion
        return emotion if emotion in PUBLISHED["four"] else None
    return emotion


def _codes(root: Path) -> dict[str, str]:
    """Turn -> code of its emotion, from the label files."""
    codes: dict[str, str] = {}
    for path in sorted(root.glob("**/EmoEvaluation/*.txt")):
        if not path.name.startswith("."):
            codes.update(_LINE.findall(path.read_text(encoding="utf-8", errors="replace")))
    if not codes:
        raise UserError(
            f"{root}: no labels in Session*/dialog/EmoEvaluation/*.txt; give the whole release"
        )
    return codes


PART = prepare
