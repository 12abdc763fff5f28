"""Two small clients whose sounds differ, and a configuration that trains on them in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import ECAPA, RATE, write_audio, write_table


def make_client_corpus(folder: Path, count: int, pitch: float, seed: int) -> Path:
    """Write a Kaldi directory of noisy harmonic sounds around one pitch (Hz)."""
    rng = np.random.default_rng(seed)
    scp = {}
    speakers = {}
    for number in range(count):
        name = f"{folder.name}-{number:02d}"
        time = np.arange(int((0.7 + 0.3 * rng.random()) * RATE)) / RATE
        base = pitch * (1 + 0.3 * (number % 3))
        wave = sum(np.sin(2 * np.pi * base * k * time + rng.random()) / k for k in range(1, 6))
        noisy = 0.1 * wave + 0.02 * rng.standard_normal(len(time))
        scp[name] = write_audio(folder / "wavs" / f"{name}.wav", noisy)
        speakers[name] = f"{folder.name}-{number % 3}"
    write_table(folder / "wav.scp", scp)
    write_table(folder / "utt2spk", speakers)
    return folder


@pytest.fixture(scope="session")
def two_clients(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("clients")
    low = make_client_corpus(root / "low", 8, 90.0, 0)
    high = make_client_corpus(root / "high", 12, 210.0, 1)
    return low, high


SETTINGS: dict[str, Any] = {
    "data": {"crops": [{"count": 2, "seconds": 0.4}], "workers": 0, "min_seconds": 0.3},
    "features": {"n_mels": 24},
    "encoder": ECAPA,
    "method": {"name": "simsiam", "hidden": 16, "projection": 8},
    "optimizer": {"lr": 1e-3},
    "train": {"batch_size": 4, "precision": "float32", "threads": 1},
    "federated": {"rounds": 2, "local_steps": 2},
}


@pytest.fixture
def configuration(two_clients: tuple[Path, Path], tmp_path: Path) -> Path:
    """A YAML file: two rounds of two steps, two clients."""
    data = {**SETTINGS["data"], "train": [str(folder) for folder in two_clients]}
    path = tmp_path / "federated.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "data": data}))
    return path
