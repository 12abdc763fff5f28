"""What server and clients tell each other: a task for a round, and a client's answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LONGEST_NAME = 200
"""Letters of a client's name."""


@dataclass(frozen=True)
class Task:
    """What the server asks of every client.

    Attributes:
        number: of the task in the run, from 1: an answer belongs to the task of its number.
        kind: ``train`` for a round, or ``cluster``: send centroids.
        round: of training, from 1.
        state: the shared weights (`wire.pack`).
        centroids: of all clients (`wire.pack`); empty where there are none.
    """

    number: int
    kind: Literal["train", "cluster"]
    round: int
    state: bytes
    centroids: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What a client sends back; of its audio, labels, and list of utterances nothing.

    Attributes:
        client: its name.
        number: of the task.
        utterances: how many it has.
        payload: weights, or centroids (`wire.pack`).
        figures: of the round, for the log: loss, divergence, seconds.
    """

    client: str
    number: int
    utterances: int
    payload: bytes
    figures: dict[str, float] = field(default_factory=dict)
