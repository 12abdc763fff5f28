"""What a server and a client keep to resume from; it may be damaged, or somebody else's.

Both are archives of `torch.save`, read without running anything (`weights.read_checkpoint`). What is
in them is checked here, before it is used: names, shapes and types, and finite numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl import foreign_json
from speechssl.errors import UserError
from speechssl.federated import wire
from speechssl.federated.averaging import State
from speechssl.train.checkpoint import save_state
from speechssl.weights import read_checkpoint, refuse_empty_shell

_REMEDY = "start again with another --out"
_MOST = 1 << 53  # rounds and tasks


@dataclass(frozen=True)
class ServerState:
    """What a server knows after a task.

    Attributes:
        state: the shared weights.
        rounds_done: rounds of training that are averaged.
        tasks_done: tasks that were asked.
        clustered_before: round before which was clustered last; 0: never.
        centroids: of all clients (`wire.pack`); empty where there are none.
    """

    state: State
    rounds_done: int
    tasks_done: int
    clustered_before: int
    centroids: bytes

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        written = {
            "state": self.state,
            "rounds_done": self.rounds_done,
            "tasks_done": self.tasks_done,
            "clustered_before": self.clustered_before,
            "centroids": self.centroids.hex(),
        }
        save_state(written, path)


def read_server(path: Path, expected: Mapping[str, Tensor]) -> ServerState:
    """Read what `ServerState.write` wrote.

    Args:
        path: of the file.
        expected: tensors (`meta`, too) of the names, shapes and types of the shared weights.

    Raises:
        UserError: it is damaged, or of another configuration.
    """
    held = read_checkpoint(path)
    with foreign_json.damage(path, _REMEDY):
        numbers = {}
        for name in ("rounds_done", "tasks_done", "clustered_before"):
            numbers[name] = _whole(name, held[name])
        if numbers["rounds_done"] > numbers["tasks_done"]:
            raise ValueError("more rounds than tasks are done")
        return ServerState(
            state=_fitting(path, held["state"], expected),
            centroids=bytes.fromhex(held["centroids"]),
            **numbers,
        )


def read_weights(path: Path) -> State:
    """Return the weights in a server's file, whatever their names and shapes are.

    Raises:
        UserError: there are none, or one of them is no plain tensor.
    """
    return _plain(path, read_checkpoint(path).get("state"))


@dataclass(frozen=True)
class LastRound:
    """What a client knows after a round.

    Attributes:
        run: state of the run (`Run.restore`).
        answered: number of the task, and digest of the weights that came with it.
        divergence: how far the round has moved the weights.
        first_divergence: how far the first round has.
        figures: of the round, for the answer.
    """

    run: dict[str, Any]
    answered: tuple[int, str]
    divergence: float
    first_divergence: float
    figures: dict[str, float]


def read_last_round(path: Path, expected: Mapping[str, Tensor]) -> LastRound:
    """Read what `training.save_round` wrote.

    Args:
        path: of the file.
        expected: as of `read_server`.

    Raises:
        UserError: it is damaged, or of another configuration.
    """
    held = read_checkpoint(path)
    with foreign_json.damage(path, _REMEDY):
        number, digest = held["answered"]
        figures = {}
        for name, value in held["figures"].items():
            if not isinstance(name, str) or not foreign_json.is_number(value):
                raise ValueError(f"figure {name!r}")
            figures[name] = float(value)
        weights = _plain(path, held["method"])
        _fitting(path, {name: weights[name] for name in expected}, expected)
        return LastRound(
            run=held,
            answered=(_whole("answered", number), str(digest)),
            divergence=_distance("divergence", held["divergence"]),
            first_divergence=_distance("first_divergence", held["first_divergence"]),
            figures=figures,
        )


def _whole(name: str, value: object) -> int:
    """Return a count; raise ValueError for what is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise ValueError(f"{name} is {str(value)[:40]}")
    return value


def _distance(name: str, value: object) -> float:
    """Return a number from 0; raise ValueError for what is none."""
    if not isinstance(value, float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {str(value)[:40]}")
    return value


def _plain(path: Path, value: object) -> State:
    """Return named tensors that hold as much as they claim; raise UserError for anything else."""
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: holds no weights; give another run")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {str(name)[:80]!r} is no weight; give another run")
        refuse_empty_shell(path, name, tensor)
    return dict(value)


def _fitting(path: Path, value: object, expected: Mapping[str, Tensor]) -> State:
    """Return weights of the names, shapes and types that are expected, in that order."""
    weights = _plain(path, value)
    try:
        return wire.fitting(weights, expected)
    except wire.Refused as error:
        raise UserError(f"{path}: {error}") from error
