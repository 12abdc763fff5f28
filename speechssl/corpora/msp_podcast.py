"""MSP-Podcast: natural emotional speech from podcasts, labelled by many listeners.

Official partitions.

Lotfian and Busso 2019, IEEE Transactions on Affective Computing 10(4) (lab-msp.com), by an academic
licence. Releases grow (1.11 has 151,654 turns), so the label file, not a published number, says
what must be there.

Layout: `Labels/labels_consensus.csv` (columns FileName, EmoClass, SpkrID, Gender, Split_Set, ...)
and the files below `Audios`. Classes: A angry, S sad, H happy, U surprised, F fearful, D disgusted,
C contempt, N neutral; O (other) and X (no agreement) have no label. utt2fold holds the partition:
train, development, test1, test2 ... A turn of an unknown speaker is given a speaker of its own.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePath
from typing import Literal

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found, audio_files
from speechssl.corpora.named import missing_files
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError

EMOTIONS = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "U": "surprised",
    "F": "fearful",
    "D": "disgusted",
    "C": "contempt",
    "N": "neutral",
}
FIVE = ("angry", "disgusted", "happy", "neutral", "sad")
COLUMNS = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set")


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    classes: Literal["five", "eight"] = "five",
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of labelled turns: utt2spk, utt2emotion, utt2gender, utt2fold
        (partition).

    Test with `speechssl evaluate classification ... --folds OUT/utt2fold --test-folds test1`.

    Args:
        root: the folder of the release (with Labels and Audios).
        out: the Kaldi directory to write.
        classes: five (angry, disgusted, happy, neutral, sad) or all eight; other turns are left
            out.
        jobs: files at a time; all cores if not given.

    Raises:
        UserError: no label file, one without the columns, or none of its files.
    """
    root = Path(root)
    rows = _rows(root / "Labels" / "labels_consensus.csv")
    kept = EMOTIONS.values() if classes == "eight" else FIVE
    paths = {PurePath(path).name: path for path in audio_files(root)}
    missing_files("msp_podcast", [row["FileName"] for row in rows], paths, "labels_consensus.csv")
    found = []
    for row in rows:
        path, emotion = paths.get(row["FileName"]), EMOTIONS.get(row["EmoClass"])
        if path is None or emotion is None or emotion not in kept:
            continue
        speaker, known = row["SpkrID"], row["SpkrID"].lower() not in ("", "unknown")
        labels = {"speaker": f"spk{speaker}" if known else f"unknown-{row['FileName']}"}
        labels["fold"] = row["Split_Set"].replace(" ", "").lower()
        labels["gender"] = {"F": "f", "M": "m"}.get(row["Gender"][:1], "unknown")
        found.append(Found(path, labels | {"emotion": emotion}))
    if not found:
        raise UserError(
            f"{root}: none of the {len(rows)} files of labels_consensus.csv has a class and is"
            " there"
        )
    return write_directory(found, root, Path(out), min_seconds=0.1, jobs=jobs)


def _rows(path: Path) -> list[dict[str, str]]:
    """The lines of the label file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (table.fieldnames or ())]
            if lacking:
                raise UserError(f"{path}: has no column {lacking[0]}; take the release's own file")
            return [{name: (row[name] or "").strip() for name in COLUMNS} for row in table]
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a release"
        ) from None


PART = prepare
