"""Who says what where in a generated corpus, and which recordings are compared with each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.corpora.synthetic.voice import STYLES
from speechssl.data.trials import Trials

PLAN = 5
"""Random stream of `plan`, the second number of a seed; the others are in `corpus.py`."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance to generate: who, where, when and how.

    Attributes:
        id: of the utterance.
        path: the file to write.
        speaker: number of the speaker.
        room: number of the room.
        session: the speaker's visit to a room, from 0 on.
        number: the speaker's utterance, from 0 on.
        emotion: a key of `voice.STYLES`.
        seconds: its length.
    """

    id: str
    path: Path
    speaker: int
    room: int
    session: int
    number: int
    emotion: str
    seconds: float

    @property
    def sex(self) -> str:
        """Sex of the speaker: "f" or "m"."""
        return sex_of(self.speaker)

    @property
    def speaker_id(self) -> str:
        """Kaldi id of the speaker."""
        return speaker_name(self.speaker)

    @property
    def room_id(self) -> str:
        """Name of the room."""
        return room_name(self.room)


def sex_of(speaker: int) -> str:
    """Return the sex of a speaker: odd numbers are men ("m"), even ones women ("f")."""
    return "m" if speaker % 2 else "f"


def speaker_name(speaker: int) -> str:
    """Return the Kaldi id of a speaker, which begins with the sex."""
    return f"{sex_of(speaker)}{speaker:03d}"


def room_name(room: int) -> str:
    """Return the name of a room."""
    return f"room{room:03d}"


@dataclass(frozen=True)
class Sizes:
    """How much each speaker says: `prepare` explains the settings."""

    utterances: int = 12
    sessions: int = 4
    shortest: float = 3.0
    longest: float = 6.0


def plan(
    root: Path, speakers: Iterable[int], rooms: range, sizes: Sizes, seed: int
) -> list[Recording]:
    """Decide who says what where.

    Each speaker is recorded in `sizes.sessions` different rooms, and has each emotion
    about equally often, in random order.

    Args:
        root: the folder of audio.
        speakers: numbers of the speakers.
        rooms: numbers of the rooms, at least as many as there are sessions.
        sizes: how much each speaker says.
        seed: of all random draws.
    """
    recordings = []
    for speaker in speakers:
        rng = np.random.default_rng([seed, PLAN, speaker])
        own_rooms = rooms.start + rng.permutation(len(rooms))[: sizes.sessions]
        all_emotions = rng.permutation(list(STYLES))
        emotions = rng.permutation(np.resize(all_emotions, sizes.utterances))
        folder = root / speaker_name(speaker)
        for number in range(sizes.utterances):
            session = number * sizes.sessions // sizes.utterances
            room = int(own_rooms[session])
            name = f"{speaker_name(speaker)}-{room_name(room)}-{number:02d}"
            seconds = round(float(rng.uniform(sizes.shortest, sizes.longest)), 2)
            recordings.append(
                Recording(
                    id=name,
                    path=folder / f"{name}.flac",
                    speaker=speaker,
                    room=room,
                    session=session,
                    number=number,
                    emotion=str(emotions[number]),
                    seconds=seconds,
                )
            )
    return recordings


def choose_trials(recordings: Sequence[Recording], limit: int, rng: np.random.Generator) -> Trials:
    """Choose up to `limit` trials, as many targets as non-targets.

    Targets cross rooms. Half of the non-targets have the same sex, a quarter the same
    room, as far as there are such pairs.

    Args:
        recordings: what is paired.
        limit: greatest number of trials.
        rng: chooses.
    """
    ids = np.array([recording.id for recording in recordings])
    speaker = np.array([recording.speaker for recording in recordings])
    sex = np.array([recording.sex for recording in recordings])
    room = np.array([recording.room for recording in recordings])
    left, right = np.triu_indices(len(recordings), 1)
    same_room = room[left] == room[right]
    same_speaker = speaker[left] == speaker[right]
    same_sex = sex[left] == sex[right]
    targets = rng.permutation(np.flatnonzero(same_speaker & ~same_room))
    others = rng.permutation(np.flatnonzero(~same_speaker))
    count = min(limit // 2, len(targets), len(others))
    nontargets = _interleaved(others, same_room[others], same_sex[others])
    chosen = np.sort(np.concatenate([targets[:count], nontargets[:count]]))
    return Trials(ids[left[chosen]], ids[right[chosen]], same_speaker[chosen])


def _interleaved(pairs: np.ndarray, same_room: np.ndarray, same_sex: np.ndarray) -> np.ndarray:
    """Order pairs (N,) so that every beginning of the list mixes the four kinds of pair.

    The n-th of its kind comes before the (n+1)-th of every other; pairs in one room
    come a third as often.
    """
    kind = 2 * same_room + same_sex
    turn = np.empty(len(pairs), dtype=int)
    for value, step in enumerate((1, 1, 3, 3)):
        is_kind = kind == value
        turn[is_kind] = np.arange(np.sum(is_kind)) * step
    return pairs[np.argsort(turn, kind="stable")]
