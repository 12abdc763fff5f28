"""Conversations made of utterances whose speakers are known, and who speaks when in them.

Speakers take turns of one utterance each, with pauses between them. The same seed makes the same
conversation.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.audio import reading
from speechssl.audio.silence import is_silent
from speechssl.diarize.turns import Turn

RATE = 16000
LEVEL = 0.05  # root mean square of a turn
TURN_SECONDS = 8.0  # longer utterances are cut
NOISE = 1e-4  # standard deviation of room noise: pauses are not digital silence


@dataclass(frozen=True)
class Mixture:
    """A conversation.

    Attributes:
        samples: (T,) at `RATE` Hz.
        turns: who speaks when.
    """

    samples: NDArray[np.float32]
    turns: list[Turn]


def speakers_of(folder: Path) -> dict[str, list[str]]:
    """Return speaker -> files of a folder of audio with utterances.tsv; unknown ones are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    with (folder / "utterances.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["speaker"] != "unknown":
                found[row["speaker"]].append(str(folder / row["path"]))
    return {speaker: sorted(paths) for speaker, paths in sorted(found.items())}


def conversation(
    files: Mapping[str, Sequence[str]],
    speakers: int,
    seed: int,
    seconds: float = 180.0,
    pauses: tuple[float, float] = (0.2, 1.0),
) -> Mixture:
    """Return a conversation of as many speakers.

    Args:
        files: speaker -> audio files.
        speakers: number of them, drawn from `files`.
        seed: of all draws.
        seconds: shortest length; it ends with a whole turn, after two turns of each speaker.
        pauses: shortest and longest pause between turns, seconds.
    """
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(sorted(files), speakers, replace=False).tolist())
    decks: dict[str, list[NDArray[np.float32]]] = {}
    for name in chosen:
        decks[name] = []
        for index in rng.permutation(len(files[name])).tolist():
            decks[name] += pieces_of(files[name][index])
            if len(decks[name]) >= 40:
                break
    places = dict.fromkeys(chosen, 0)
    parts = [np.zeros(RATE // 2, np.float32)]
    turns: list[Turn] = []
    position = len(parts[0])
    speaker = ""
    while position < seconds * RATE or min(places.values()) < 2:
        others = [name for name in chosen if name != speaker] or chosen
        speaker = str(rng.choice(others))
        wave = decks[speaker][places[speaker] % len(decks[speaker])]
        places[speaker] += 1
        for first, last in spoken(wave):
            turns.append(Turn((position + first) / RATE, (position + last) / RATE, speaker))
        pause = np.zeros(round(rng.uniform(*pauses) * RATE), np.float32)
        parts += [wave, pause]
        position += len(wave) + len(pause)
    samples = np.concatenate(parts)
    samples += NOISE * rng.standard_normal(len(samples)).astype(np.float32)
    return Mixture(samples, turns)


def spoken(wave: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return (first, last) sample of the speech of a turn: without pauses of 0.5 s and more."""
    import librosa

    spans: list[list[int]] = []
    for first, last in librosa.effects.split(wave, top_db=35).tolist():
        if spans and first - spans[-1][1] < RATE // 2:
            spans[-1][1] = last
        else:
            spans.append([first, last])
    return [(first, last) for first, last in spans]


def pieces_of(path: str) -> list[NDArray[np.float32]]:
    """Return the speech of a file at one level, without silent ends, in turns of 1 to 8 s."""
    import librosa

    wave = reading.read(path, RATE)
    if is_silent(wave):
        return []
    trimmed, _ = librosa.effects.trim(wave, top_db=35)
    count = max(1, int(np.ceil(len(trimmed) / (TURN_SECONDS * RATE))))
    pieces = []
    for piece in np.array_split(trimmed, count):
        if len(piece) >= RATE:
            level = float(np.sqrt(np.mean(piece**2)))
            pieces.append((piece * (LEVEL / max(level, 1e-6))).astype(np.float32))
    return pieces
