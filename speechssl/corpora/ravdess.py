"""RAVDESS: 24 actors, two statements, eight emotions of two strengths; 1,440 utterances of speech.

The Ryerson Audio-Visual Database of Emotional Speech and Song (Livingstone and Russo
2018, PLoS ONE 13(5) e0196391; Zenodo record 1188976, `Audio_Speech_Actors_01-24.zip`),
CC BY-NC-SA 4.0. Of each actor 60 utterances: neutral 4, each other emotion 8 (normal
and strong, two statements, two repetitions).

Layout: `Actor_01/03-01-06-01-02-01-12.wav`, at any depth below the root. The seven
fields are modality (03 is audio), channel (01 is speech), emotion, intensity,
statement, repetition and actor (odd numbers are men). Songs and videos are left out.
Classes: neutral, calm, happy, sad, angry, fearful, disgusted, surprised. No official
folds: speaker-disjoint ones are made when the embeddings are evaluated.
"""

from __future__ import annotations

from pathlib import Path

from speechssl.corpora.folder import write_directory
from speechssl.corpora.listing import Found
from speechssl.corpora.named import compare_counts, named_files
from speechssl.data.manifest import Manifest

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgusted",
    "08": "surprised",
}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "kids", "02": "dogs"}
PUBLISHED = {
    "spk": {f"actor{number:02d}": 60 for number in range(1, 25)},
    "emotion": dict.fromkeys(EMOTIONS.values(), 192) | {"neutral": 96},
}
"""Utterances of each actor and of each emotion in the release."""


def prepare(
    root: str | Path, out: str | Path, *, trim: float | None = 35.0, jobs: int | None = None
) -> Manifest:
    """Write a Kaldi directory of the speech of RAVDESS.

    Labels: utt2spk, utt2emotion, utt2intensity, utt2statement, utt2gender.

    Args:
        root: the folder with the actors' folders.
        out: the Kaldi directory to write.
        trim: cut both ends where the level is this many dB below the loudest;
            recordings have about a second of near silence at both ends. 0 cuts nothing.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no file is named as RAVDESS names its speech.
    """
    root = Path(root)
    pattern = r"03-01-(0[1-8])-(01|02)-(01|02)-(01|02)-(\d\d)"
    found = []
    for file in named_files(root, pattern, "03-01-06-01-02-01-12.wav").values():
        emotion, intensity, statement, _repetition, actor = file.fields
        labels = {
            "speaker": f"actor{actor}",
            "emotion": EMOTIONS[emotion],
            "intensity": INTENSITIES[intensity],
            "statement": STATEMENTS[statement],
            "gender": "m" if int(actor) % 2 else "f",
        }
        found.append(Found(file.path, labels))
    manifest = write_directory(
        found, root, Path(out), trim=trim or None, min_seconds=0.1, jobs=jobs
    )
    compare_counts("ravdess", manifest, PUBLISHED)
    return manifest


PART = prepare
