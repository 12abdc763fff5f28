"""Runs that are asked to end: they save after the step at hand, and resumed ones lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speechssl.train import loop
from speechssl.train.logs import Meter


def start(configuration: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "speechssl", "train", str(configuration), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--device", "cpu", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def log(out: Path) -> list[dict[str, float]]:
    """Return the lines of a log without its timings."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for entry in entries:
        del entry["utterances_per_second"], entry["data_wait"]
    return entries


def same_bits(one: Path, other: Path) -> bool:
    names = ["model/weights.safetensors"]
    names += [str(path.relative_to(one)) for path in (one / "snapshots").iterdir()]
    same_snapshots = len(list((other / "snapshots").iterdir())) == len(names) - 1
    return same_snapshots and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


# A log line every 3 steps and a state every 2: means are under way when a state is written.
LENGTH = ("train.steps=30", "train.log_every=3", "data.workers=1")


@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGTERM, True),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, False, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_asked_to_end_saves_and_resumes_as_if_unbroken(
    configuration: Path, tmp_path: Path, number: int, group: bool
) -> None:
    whole = loop.train(str(configuration), LENGTH, out=tmp_path / "whole", device="cpu")
    out = tmp_path / "run"
    process = start(configuration, out, *LENGTH)
    while not (out / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    if group:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("speechssl: train: asked to end; saved after step ")
    assert not (out / "model").exists()
    assert not list(out.rglob("*.partial*"))
    assert not (out / ".lock").exists()
    loop.train(str(configuration), LENGTH, out=out, device="cpu", resume=True)
    assert same_bits(whole, out)
    assert log(out) == log(whole)


@pytest.mark.slow
def test_the_log_of_a_killed_run_equals_an_unbroken_one(
    configuration: Path, tmp_path: Path
) -> None:
    whole = loop.train(str(configuration), LENGTH, out=tmp_path / "whole", device="cpu")
    out = tmp_path / "run"
    process = start(configuration, out, *LENGTH)
    while not (out / "snapshots/step-00000004.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    loop.train(str(configuration), LENGTH, out=out, device="cpu", resume=True)
    assert log(out) == log(whole)
    assert same_bits(whole, out)


def test_a_meter_continues_where_its_state_was_taken() -> None:
    import torch

    values = [torch.tensor(x) for x in (0.1, 0.7, 0.3)]
    unbroken = Meter()
    first = Meter()
    for value in values[:2]:
        unbroken.add({"loss": value})
        first.add({"loss": value})
    second = Meter()
    second.restore(first.state(), torch.device("cpu"))
    for meter in (unbroken, second):
        meter.add({"loss": values[2]})
    assert second.read() == unbroken.read()
    assert Meter().state() == {"sums": {}, "count": 0}
