"""MSP-Podcast: natural emotional speech from podcasts, labelled by many listeners.

Lotfian and Busso 2019, IEEE Transactions on Affective Computing 10(4) (lab-msp.com), by
an academic licence. Releases grow (1.11 has 151,654 turns), so the label file, not a
published number, says what must be there.

Layout: `Labels/labels_consensus.csv` (columns FileName, EmoClass, SpkrID, Gender,
Split_Set, ...) and the files below `Audios`. Classes: A angry, S sad, H happy, U
surprised, F fearful, D disgusted, C contempt, N neutral; O (other) and X (no agreement)
have no label. utt2fold holds the partition: train, development, test1, test2 ... A turn
of an unknown speaker gets a speaker of its own.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Literal

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found, all_audio
from speechssl.corpora.named import read_columns, report_missing, wav_first
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
GENDERS = {"F": "f", "M": "m"}
COLUMNS = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set")


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    classes: Literal["five", "eight"] = "five",
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of the labelled turns of MSP-Podcast.

    Labels: utt2spk, utt2emotion, utt2gender, utt2fold (the partition). Test with
    `speechssl evaluate classification ... --folds OUT/utt2fold --test-folds test1`.

    Args:
        root: the folder of the release (with Labels and Audios).
        out: the Kaldi directory to write.
        classes: five (angry, disgusted, happy, neutral, sad) or all eight; other turns
            are left out.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no label file, one without the columns, or none of its files.
    """
    root = Path(root)
    rows = read_columns(root / "Labels" / "labels_consensus.csv", COLUMNS)
    kept = tuple(EMOTIONS.values()) if classes == "eight" else FIVE
    paths: dict[str, str] = {}  # by names without their ending: the audio may have been converted
    for audio in sorted(all_audio(root), key=wav_first):
        paths.setdefault(PurePath(audio).stem, audio)
    listed = {row["FileName"]: PurePath(row["FileName"]).stem for row in rows}
    there = [name for name, stem in listed.items() if stem in paths]
    report_missing("msp_podcast", listed, there, "labels_consensus.csv")
    found = []
    for row in rows:
        path = paths.get(listed[row["FileName"]])
        emotion = EMOTIONS.get(row["EmoClass"])
        if path is None or emotion is None or emotion not in kept:
            continue
        labels = {
            "speaker": _speaker(row),
            "fold": row["Split_Set"].replace(" ", "").lower(),
            "gender": GENDERS.get(row["Gender"][:1], "unknown"),
            "emotion": emotion,
        }
        found.append(Found(path, labels))
    if not found:
        raise UserError(
            f"{root}: none of the {len(rows)} files of labels_consensus.csv has a class and is"
            " there"
        )
    return write_directory(found, root, Path(out), min_seconds=0.1, jobs=jobs)


def _speaker(row: dict[str, str]) -> str:
    """Return the speaker of a row; an unknown one is the only speaker of its file."""
    if row["SpkrID"].lower() in ("", "unknown"):
        return f"unknown-{row['FileName']}"
    return f"spk{row['SpkrID']}"


PART = prepare
