"""Memory that does not grow: epochs of training, files that are embedded, lines of wav.scp.

    python -m pytest -m slow -s tests/hostile/test_memory_over_time.py

prints what was measured.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from builders import make_model, noise, write_audio
from killing_verbs import DINO, TRAINING
from starting import Process, processes_of

from speechssl.data.vectors.files import read_vectors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc"),
]
MIB = 2**20


def resident(pid: int) -> float:
    """Return the memory of a process that is not shared with files, MiB; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(rows.get("RssAnon", "0 kB").split()[0]) / 1024


def peak(command: Process) -> float:
    """Wait for a command; return the most that its processes held at one moment, MiB."""
    most = 0.0
    while command.poll() is None:
        most = max(most, sum(resident(pid) for pid in processes_of(command.pid)))
        time.sleep(0.02)
    assert command.returncode == 0, command.text()
    return most


def test_fifty_epochs_of_training(tmp_path: Path) -> None:
    lines = [
        f"u{n:03d} {write_audio(tmp_path / f'{n}.wav', noise(1.0, seed=n))}\n" for n in range(24)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/wav.scp").write_text("".join(lines))
    settings = {
        **TRAINING,
        "data": {**TRAINING["data"], "train": [str(tmp_path / "data")]},
        "method": DINO,
        "train": {
            "epochs": 50, "batch_size": 4, "precision": "float32", "log_every": 6,
            "save_every": 60, "threads": 1, "keep": 2,
        },
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "run"
    command = Process(
        tmp_path, ["train", str(tmp_path / "train.yaml"), "--out", str(out), "--device", "cpu"]
    )
    by_epoch: dict[int, float] = {}
    log = out / "log.jsonl"
    while command.poll() is None:
        epoch = log.read_bytes().count(b"\n") if log.exists() else 0
        held = sum(resident(pid) for pid in processes_of(command.pid))
        by_epoch[epoch] = max(by_epoch.get(epoch, 0.0), held)
        time.sleep(0.02)
    assert command.returncode == 0, command.text()
    early = max(held for epoch, held in by_epoch.items() if 5 <= epoch <= 10)
    late = max(held for epoch, held in by_epoch.items() if 45 <= epoch < 50)
    print(f"\ntraining: {early:.1f} MiB in epochs 5 to 10, {late:.1f} MiB in epochs 45 to 50")
    assert late < early + 8


def test_twenty_thousand_embedded_files(tmp_path: Path) -> None:
    make_model().save(tmp_path / "model")
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    one = write_audio(tmp_path / "one.wav", noise(0.2))
    for number in range(20_000):
        if number < 2_000:
            os.link(one, tmp_path / f"few/{number:05d}.wav")
        os.link(one, tmp_path / f"many/{number:05d}.wav")
    held = {}
    for name in ("few", "many"):
        out = tmp_path / f"{name}.npz"
        words = ["embed", str(tmp_path / "model"), str(tmp_path / name), "--out", str(out)]
        began = time.monotonic()
        held[name] = peak(Process(tmp_path, [*words, "--device", "cpu"]))
        print(f"\nembed {name}: {held[name]:.1f} MiB in {time.monotonic() - began:.0f} s")
    assert read_vectors(tmp_path / "many.npz")[1].shape == (20_000, 12)
    # Ids, paths and plan are kept, at most 2 KiB a file; no audio, no features.
    assert held["many"] < held["few"] + 18_000 * 2 / 1024


def test_a_million_lines_are_validated(tmp_path: Path) -> None:
    one = write_audio(tmp_path / "one.wav", noise(0.2))
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "wav.scp").open("w") as paths, (folder / "utt2spk").open("w") as speakers:
        for number in range(1_000_000):
            paths.write(f"utt{number:07d} {one}\n")
            speakers.write(f"utt{number:07d} speaker{number % 5000:04d}\n")
    began = time.monotonic()
    held = peak(Process(tmp_path, ["validate", str(folder)]))
    seconds = time.monotonic() - began
    print(f"\nvalidate: a million lines in {seconds:.1f} s, {held:.0f} MiB")
    assert held < 1500
    assert seconds < 180
