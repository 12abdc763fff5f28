"""Flower carries what the local engine computes: over gRPC on loopback, and in its simulation.

The environment of the other tests has no Flower: these tests are skipped there, and run as
recipes/federated/README.md says.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_rounds import equal, federate, final, lines

pytest.importorskip("flwr", reason="the extra federated has an environment of its own")

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


STARTED: list[Command] = []


@pytest.fixture(autouse=True)
def nobody_is_left_behind() -> Iterator[None]:
    yield
    for command in STARTED:
        if command.process.poll() is None:
            command.kill()
    STARTED.clear()


class Command:
    """`speechssl federate` in a process of its own; its output goes into a file."""

    def __init__(self, configuration: Path, log: Path, *words: object) -> None:
        self.log = log
        command = [sys.executable, "-m", "speechssl", "federate", str(configuration)]
        self.file = log.open("a")
        self.process = subprocess.Popen(
            [*command, *map(str, words)], stdout=self.file, stderr=self.file, env=ENVIRONMENT
        )
        STARTED.append(self)

    def wait(self, seconds: float = 120) -> int:
        code = self.process.wait(seconds)
        self.file.close()
        return code

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.wait()


def wait_for_rounds(out: Path, rounds: int, seconds: float = 90) -> None:
    """Wait until the server's log has so many lines."""
    end = time.monotonic() + seconds
    log = out / "log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < rounds:
        assert time.monotonic() < end, "no progress"
        time.sleep(0.02)


@pytest.mark.slow
def test_server_and_clients_over_grpc_end_in_the_bits_of_the_local_engine(
    configuration: Path, tmp_path: Path
) -> None:
    words = ["federated.rounds=3", "method={name: byol, hidden: 16, projection: 8}"]
    whole = federate(configuration, tmp_path / "whole", *words)
    address = free_address()
    server = Command(
        configuration, tmp_path / "s", *words, "--serve", address, "--out", tmp_path / "server"
    )
    clients = []
    for name in ("low", "high"):
        place = ("--join", address, "--client", name, "--out", tmp_path / name, "--device", "cpu")
        clients.append(Command(configuration, tmp_path / f"{name}.log", *words, *place))
    assert server.wait() == 0, (tmp_path / "s").read_text()
    assert [client.wait() for client in clients] == [0, 0]
    assert equal(final(whole), final(tmp_path / "server"))
    assert not (tmp_path / "server" / "clients").exists()
    said = (tmp_path / "s").read_text().splitlines()
    assert said[0].startswith(
        f"[federate] serve at {address}; the first round begins when 2 clients"
    )
    assert said[1:3] == [f"[federate] a client joined: {count} of 2" for count in (1, 2)]


@pytest.mark.slow
def test_a_killed_client_is_done_without_and_a_killed_server_resumes_to_the_same_bits(
    configuration: Path, tmp_path: Path
) -> None:
    words = ["federated.rounds=6", "federated.local_steps=6"]
    whole = federate(configuration, tmp_path / "whole", *words)
    address = free_address()
    place = ("--serve", address, "--out", tmp_path / "server")
    server = Command(configuration, tmp_path / "s", *words, *place)
    clients = {}

    def join(name: str) -> None:
        place = ("--join", address, "--client", name, "--out", tmp_path / name, "--device", "cpu")
        clients[name] = Command(configuration, tmp_path / f"{name}.log", *words, *place)

    join("low")
    join("high")
    wait_for_rounds(tmp_path / "server", 2)
    server.kill()
    server = Command(configuration, tmp_path / "s", *words, *place, "--resume")
    assert server.wait() == 0, (tmp_path / "s").read_text()
    assert [client.wait() for client in clients.values()] == [0, 0]
    assert equal(final(whole), final(tmp_path / "server"))

    address = free_address()
    place = ("--serve", address, "--out", tmp_path / "again")
    server = Command(configuration, tmp_path / "s2", *words, *place)
    for name in ("low", "high"):
        folder = tmp_path / f"{name}2"
        there = ("--join", address, "--client", name, "--out", folder, "--device", "cpu")
        clients[name] = Command(configuration, tmp_path / f"{name}2.log", *words, *there)
    wait_for_rounds(tmp_path / "again", 1)
    clients["low"].kill()
    assert server.wait() == 0, (tmp_path / "s2").read_text()
    assert clients["high"].wait() == 0
    log = lines(tmp_path / "again")
    assert [entry["round"] for entry in log if entry["averaged"]] == [1, 2, 3, 4, 5, 6]
    assert sorted(log[0]["clients"]) == ["high", "low"] and list(log[-1]["clients"]) == ["high"]


@pytest.mark.slow
def test_the_simulation_ends_in_the_bits_of_the_local_engine(
    configuration: Path, tmp_path: Path
) -> None:
    whole = federate(configuration, tmp_path / "whole")
    out = tmp_path / "run"
    command = Command(
        configuration, tmp_path / "log", "--engine", "flower", "--out", out, "--device", "cpu"
    )
    assert command.wait(240) == 0, (tmp_path / "log").read_text()
    assert equal(final(whole), final(out))


BLOCKED = """
import socket, sys
asked = []
def refuse(self, address):
    asked.append(address)
    raise OSError("no network in this test")
socket.socket.connect = refuse
lookup = socket.getaddrinfo
def look_up(host, *more, **options):
    if host not in (None, "localhost", "127.0.0.1", "::1"):
        asked.append(host)
        raise OSError("no network in this test")
    return lookup(host, *more, **options)
socket.getaddrinfo = look_up
from speechssl.federated.flower import import_flower
flwr = import_flower()
from flwr.supercore import telemetry
future = telemetry.event(telemetry.EventType.START_SERVER_ENTER)
print(future.result(30))
assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
assert not asked, asked
"""


def test_no_host_is_asked_by_telemetry() -> None:
    """The event that `start_server` sends first is not sent, with every connection refused."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "disabled" in done.stdout.lower(), done.stdout
