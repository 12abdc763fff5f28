"""What a server and a client resume from may be damaged or somebody else's: one line, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_rounds import federate

from speechssl.errors import UserError
from speechssl.federated.clients import client_names, folder_of
from speechssl.federated.saved import (
    ServerState,
    read_last_round,
    read_server,
    read_weights,
)
from speechssl.federated.server import Server
from speechssl.federated.settings import read_settings
from speechssl.federated.wire import pack

WEIGHTS = {"b.weight": torch.randn(2, 3), "a.steps": torch.tensor(7), "a.bias": torch.zeros(2)}
EXPECTED = {name: value.to("meta") for name, value in WEIGHTS.items()}
ROUND: dict[str, Any] = {
    "method": {**WEIGHTS, "teacher": torch.zeros(4)},
    "answered": [3, "abc"],
    "figures": {"loss": 0.5, "seconds": 1.0},
    "divergence": 0.25,
    "first_divergence": 0.5,
}

ABSENT = object()


def server_file(path: Path, **changes: Any) -> Path:
    ServerState(WEIGHTS, 2, 3, 1, b"").write(path)
    save({**torch.load(path, weights_only=True), **changes}, path)
    return path


def save(held: dict[str, Any], path: Path) -> None:
    """Write a state without the entries that are ABSENT."""
    torch.save({name: value for name, value in held.items() if value is not ABSENT}, path)


def test_what_a_server_writes_is_read_again_in_the_order_of_the_configuration(
    tmp_path: Path,
) -> None:
    path = server_file(tmp_path / "server.pt", centroids=b"\x00\xff".hex())
    found = read_server(path, dict(reversed(EXPECTED.items())))
    assert list(found.state) == list(reversed(EXPECTED))
    assert all(torch.equal(found.state[name], value) for name, value in WEIGHTS.items())
    numbers = (found.rounds_done, found.tasks_done, found.clustered_before)
    assert numbers == (2, 3, 1)
    assert found.centroids == b"\x00\xff"


SPARSE = torch.ones(2, 3).to_sparse()
SHELLS = [torch.zeros(1).expand(2, 1 << 40), torch.zeros(2, 3, device="meta"), SPARSE]


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ABSENT} for name in ("state", "rounds_done", "tasks_done", "centroids")),
        {"state": [1, 2]},
        {"state": {}},
        {"state": dict.fromkeys(WEIGHTS, 1)},
        {"state": dict(enumerate(WEIGHTS.values()))},
        {"state": {**WEIGHTS, "more": torch.zeros(1)}},
        {"state": {**WEIGHTS, "b.weight": torch.zeros(3, 2)}},
        {"state": {**WEIGHTS, "b.weight": torch.zeros(2, 3).double()}},
        {"state": {**WEIGHTS, "b.weight": torch.full((2, 3), float("nan"))}},
        *({"state": {**WEIGHTS, "b.weight": shell}} for shell in SHELLS),
        {"rounds_done": "x"},
        {"rounds_done": -5},
        {"rounds_done": 4},
        {"rounds_done": 1.0},
        {"rounds_done": True},
        {"tasks_done": float("nan")},
        {"tasks_done": torch.zeros(3)},
        {"clustered_before": 10**30},
        {"centroids": "zz"},
        {"centroids": 5},
    ],
)
def test_a_state_that_no_server_writes_is_one_line(tmp_path: Path, changes: Any) -> None:
    path = server_file(tmp_path / "server.pt", **changes)
    with pytest.raises(UserError, match=r"server\.pt: [^\n]*$"):
        read_server(path, EXPECTED)


def test_the_weights_to_start_from_are_plain_tensors(tmp_path: Path) -> None:
    path = server_file(tmp_path / "server.pt")
    assert list(read_weights(path)) == list(WEIGHTS)
    for state in ("words", dict.fromkeys(WEIGHTS, 1), *({"b": shell} for shell in SHELLS)):
        with pytest.raises(UserError):
            read_weights(server_file(path, state=state))


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ABSENT} for name in ROUND),
        {"method": [1]},
        {"method": {"b.weight": WEIGHTS["b.weight"]}},
        {"method": {**WEIGHTS, "b.weight": torch.zeros(7)}},
        {"method": {**WEIGHTS, "teacher": SHELLS[0]}},
        {"answered": 3},
        {"answered": ["x", "abc"]},
        {"answered": torch.zeros(5)},
        {"figures": [1]},
        {"figures": {"loss": "\x1b[31m"}},
        {"figures": {3: 1.0}},
        {"divergence": "x"},
        {"divergence": torch.zeros(5)},
        {"divergence": float("nan")},
        {"first_divergence": -1.0},
    ],
)
def test_a_round_that_no_client_writes_is_one_line(tmp_path: Path, changes: Any) -> None:
    path = tmp_path / "last.pt"
    torch.save(ROUND, path)
    found = read_last_round(path, EXPECTED)
    assert found.answered == (3, "abc")
    assert found.figures == ROUND["figures"]
    save({**ROUND, **changes}, path)
    with pytest.raises(UserError, match=r"last\.pt: [^\n]*$"):
        read_last_round(path, EXPECTED)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    held = torch.load(path, weights_only=True)
    change(held)
    torch.save(held, path)


def test_damage_is_said_before_a_round(configuration: Path, tmp_path: Path) -> None:
    out = federate(configuration, tmp_path / "run", "federated.rounds=1")
    words = read_settings(str(configuration), ["federated.rounds=1"])
    changed(out / "server.pt", lambda held: held.update(rounds_done=5, tasks_done=5))
    with pytest.raises(UserError, match="more rounds"):
        Server(*words, out, resume=True)
    rows = pack({"centroids": torch.zeros(3, 12)}).hex()
    changed(
        out / "server.pt", lambda held: held.update(rounds_done=0, tasks_done=0, centroids=rows)
    )
    with pytest.raises(UserError, match="centroids"):
        Server(*words, out, resume=True)
    changed(out / "server.pt", lambda held: held.update(centroids=""))
    changed(folder_of(out, "low") / "last.pt", lambda held: held.pop("answered"))
    with pytest.raises(UserError, match=r"low/last\.pt: is damaged"):
        federate(configuration, out, "federated.rounds=1", resume=True)


@pytest.mark.parametrize("name", ["n" * 201, "é" * 100, "\udcff"])
def test_names_that_no_folder_or_message_can_have_are_refused(
    configuration: Path, tmp_path: Path, name: str
) -> None:
    table = tmp_path / "utt2client"
    table.write_bytes(f"low-00 {name}\nlow-01 other\n".encode(errors="surrogateescape"))
    config, settings = read_settings(str(configuration), [f"federated.clients={table}"])
    with pytest.raises(UserError, match="cannot be the name of a client"):
        client_names(config, settings)
