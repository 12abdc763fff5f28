"""Several processes that are asked to end: all finish the step, the state is written once."""

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

from speechssl.locks import sole_writer
from speechssl.weights import read_checkpoint

pytestmark = pytest.mark.slow


def command(configuration: Path, out: Path, *words: str) -> list[str]:
    options = ["train.batch_size=4", "train.steps=400", "train.save_every=100", *words]
    return [
        "speechssl", "train", str(configuration), *options, "--out", str(out), "--device", "cpu"
    ]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    fixed = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return {**os.environ, **fixed, "PYTHONPATH": os.pathsep.join(sys.path), **more}


class Ranks:
    """Two processes that train together, each started by itself as `srun` does."""

    def __init__(self, configuration: Path, out: Path, *words: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", *command(configuration, out, *words)],
                env=environment(RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2", **shared),
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in "01"
        ]

    def wait(self) -> tuple[list[int], list[str]]:
        """Return the exit codes and what each has printed as errors."""
        errors = [process.communicate(timeout=120)[1] for process in self.processes]
        return [process.returncode for process in self.processes], errors


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for_steps(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the log has lines."""
    log = out / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("reached", [(0, 1), (1,)], ids=["both", "second"])
def test_ranks_that_are_asked_to_end_stop_after_one_step(
    configuration: Path,
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    number: int,
    reached: tuple[int, ...],
) -> None:
    out = tmp_path / "run"
    ranks = Ranks(configuration, out)
    started += ranks.processes
    wait_for_steps(out, ranks.processes[0])
    for rank in reached:
        ranks.processes[rank].send_signal(number)
    codes, errors = ranks.wait()
    assert codes == [143, 143], errors
    assert "Traceback" not in "".join(errors)
    assert "".join(errors).count("asked to end; saved after step") == 1
    step = read_checkpoint(out / "last.pt")["step"]
    assert f"saved after step {step} of 400" in errors[0]
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []

    resumed = Ranks(configuration, out, f"train.steps={step + 2}", "--resume")
    started += resumed.processes
    codes, errors = resumed.wait()
    assert codes == [2, 2], errors  # the number of steps belongs to the run
    resumed = Ranks(configuration, out, "--resume")
    started += resumed.processes
    time.sleep(1)
    for process in resumed.processes:
        process.terminate()
    codes, errors = resumed.wait()
    assert codes == [143, 143], errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_ranks_end_in_order_with_torchrun(
    configuration: Path, tmp_path: Path, started: list[subprocess.Popen[str]], number: int
) -> None:
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [*launcher, "-m", *command(configuration, out)],
            env=environment(),
            stderr=errors,
            text=True,
        )
    started.append(process)
    wait_for_steps(out, process)
    process.send_signal(number)
    process.wait(60)
    deadline = time.monotonic() + 60
    while (out / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    text = (tmp_path / "errors").read_text()
    assert text.count("asked to end; saved after step") == 1, text
    assert read_checkpoint(out / "last.pt")["step"] < 400
    with sole_writer(out):
        pass


def test_ranks_are_refused_together(
    configuration: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with sole_writer(out):
        ranks = Ranks(configuration, out)
        started += ranks.processes
        codes, errors = ranks.wait()
    assert codes == [2, 2], errors
    assert "is writing it" in errors[0]
    assert "Traceback" not in "".join(errors)
    assert list(out.iterdir()) == []
