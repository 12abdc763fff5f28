"""EmoDB: ten German actors, ten sentences, seven emotions; 535 utterances.

The Berlin Database of Emotional Speech (Burkhardt et al. 2005, Interspeech;
emodb.bilderbar.info), free to use. Five men and five women; angry 127, bored 81,
disgusted 46, fearful 69, happy 71, sad 62, neutral 79.

Layout: `wav/03a01Fa.wav`: two digits of the speaker, three of the text, the emotion's
German initial (Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral), a letter for the
version. No official folds; leaving one speaker out at a time (`--folds 0`) is usual.
"""

from __future__ import annotations

from pathlib import Path

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found
from speechssl.corpora.named import compare_counts, named_files
from speechssl.data.manifest import Manifest

EMOTIONS = {
    "W": "angry",
    "L": "bored",
    "E": "disgusted",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
MEN = ("03", "10", "11", "12", "15")
_UTTERANCES_OF_SPEAKERS = {
    "03": 49,
    "08": 58,
    "09": 43,
    "10": 38,
    "11": 55,
    "12": 35,
    "13": 61,
    "14": 69,
    "15": 56,
    "16": 71,
}
_UTTERANCES_OF_EMOTIONS = {
    "angry": 127,
    "bored": 81,
    "disgusted": 46,
    "fearful": 69,
    "happy": 71,
    "sad": 62,
    "neutral": 79,
}
PUBLISHED = {"spk": _UTTERANCES_OF_SPEAKERS, "emotion": _UTTERANCES_OF_EMOTIONS}
"""Utterances of each speaker and of each emotion in the release."""


def prepare(root: str | Path, out: str | Path, *, jobs: int | None = None) -> Manifest:
    """Write a Kaldi directory of EmoDB.

    Labels: utt2spk, utt2emotion, utt2text, utt2gender.

    Args:
        root: the folder of the release (with wav).
        out: the Kaldi directory to write.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no file is named as EmoDB names its recordings.
    """
    root = Path(root)
    found = []
    pattern = r"(\d\d)([ab]\d\d)([WLEAFTN])[a-z]?"
    for file in named_files(root, pattern, "03a01Fa.wav").values():
        speaker, text, letter = file.fields
        labels = {
            "speaker": speaker,
            "emotion": EMOTIONS[letter],
            "text": text,
            "gender": "m" if speaker in MEN else "f",
        }
        found.append(Found(file.path, labels))
    manifest = write_directory(found, root, Path(out), min_seconds=0.1, jobs=jobs)
    compare_counts("emodb", manifest, PUBLISHED)
    return manifest


PART = prepare
