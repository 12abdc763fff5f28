"""A tiny corpus, and a configuration that trains on it in a second."""

import numpy as np
import pytest
import yaml
from builders import ECAPA, RATE, write_audio, write_table


def make_corpus(folder, count=20):
    """Kaldi directory of noisy harmonic sounds, 0.8 to 1.4 s, with labels of four speakers."""
    rng = np.random.default_rng(0)
    tables = {"wav.scp": {}, "utt2spk": {}, "utt2emotion": {}}
    for number in range(count):
        name = f"u{number:02d}"
        time = np.arange(int((0.8 + 0.6 * rng.random()) * RATE)) / RATE
        pitch = 100 + 40 * (number % 4)
        wave = sum(np.sin(2 * np.pi * pitch * k * time + rng.random()) / k for k in range(1, 8))
        wave = 0.1 * wave + 0.02 * rng.standard_normal(len(time))
        tables["wav.scp"][name] = write_audio(folder / "wavs" / f"{name}.wav", wave)
        tables["utt2spk"][name] = f"s{number % 4}"
        tables["utt2emotion"][name] = "happy"
    for name, rows in tables.items():
        write_table(folder / name, rows)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture
def configuration(corpus, tmp_path):
    """A YAML file: 8 steps of 4 utterances, saved every 2 and logged every step."""
    settings = {
        "data": {
            "train": [str(corpus)],
            "crops": [{"count": 2, "seconds": 0.5}, {"count": 2, "seconds": 0.3, "to": "student"}],
            "workers": 0,
        },
        "features": {"n_mels": 24},
        "augment": {"rir_prob": 0.5, "simulate_prob": 1.0, "filter_prob": 0.3, "gain": [-3, 3]},
        "specaugment": {"time_masks": 1, "time_width": 5},
        "encoder": {**ECAPA, "width": 32, "embedding_dim": 16},
        "method": {"name": "dino", "prototypes": 16, "layers": 2, "hidden": 16, "bottleneck": 8},
        "optimizer": {"lr": 1e-3},
        "train": {
            "steps": 8, "batch_size": 4, "precision": "float32", "log_every": 1,
            "save_every": 2, "threads": 1,
        },
        "monitor": {"every": 4},
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
