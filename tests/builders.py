"""What tests are made of: sounds, tables, small models and runs of a script.

Test files import these by name (`from builders import noise, write_audio`); the fixtures that are
made of them are in `conftest.py`. What one folder alone needs stays in that folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechssl import interfaces
from speechssl.model import Model

Movable = TypeVar("Movable", Tensor, nn.Module)

ROOT = Path(__file__).parents[1]
"""The repository."""

ENVIRONMENT = {**os.environ, "SPEECHSSL_PYTHON": sys.executable}
"""For scripts: they use this Python, and install nothing while tests run."""

RATE = 16000

DEVICE = torch.device("cpu")
"""Where tests that use `on_device` compute: pytest's option ``--device``."""


def choose_device(name: str) -> None:
    """Let `on_device` move to the device of that name; a GPU then computes float32 without TF32."""
    global DEVICE
    DEVICE = torch.device(name)
    torch.backends.cudnn.allow_tf32 = False


def on_device(thing: Movable) -> Movable:
    """Move a tensor or a module to the device under test."""
    return thing.to(DEVICE)


ECAPA: dict[str, Any] = {
    "name": "ecapa",
    "width": 16,
    "scale": 4,
    "embedding_dim": 12,
    "attention_channels": 8,
    "se_channels": 8,
}
"""A small ECAPA-TDNN: an embedding of a second of audio takes about 10 ms."""

RESNET: dict[str, Any] = {
    "name": "resnet",
    "width": 8,
    "blocks": [1, 1, 1, 1],
    "embedding_dim": 12,
    "attention_channels": 8,
}
"""A small ResNet."""

CAMPPLUS: dict[str, Any] = {
    "name": "campplus",
    "head_channels": 4,
    "width": 16,
    "layers": [2, 2, 2],
    "growth_rate": 8,
    "embedding_dim": 12,
}
"""A small CAM++."""

XVECTOR: dict[str, Any] = {"name": "xvector", "channels": [16, 16, 16, 16, 24], "embedding_dim": 12}
"""A small x-vector encoder."""

ERES2NETV2: dict[str, Any] = {
    "name": "eres2netv2",
    "width": 8,
    "blocks": [1, 1, 1, 1],
    "embedding_dim": 12,
}
"""A small ERes2NetV2."""

REDIMNET: dict[str, Any] = {
    "name": "redimnet",
    "channels": 4,
    "strides": [1, 2, 3],
    "blocks": [1, 1, 1],
    "expansions": [1, 2, 1],
    "reductions": [0, 12, 8],
    "block_2d": "basic_gated",
    "embedding_dim": 12,
}
"""A small ReDimNet with every kind of layer but one."""

ENCODERS = {
    "ecapa": ECAPA,
    "resnet": RESNET,
    "campplus": CAMPPLUS,
    "xvector": XVECTOR,
    "eres2netv2": ERES2NETV2,
    "redimnet": REDIMNET,
}


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    """White noise of standard deviation 0.1."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return (0.1 * samples).astype(np.float32)


def noises(batch: int, samples: int, seed: int = 0) -> Tensor:
    """The same as a batch, (batch, samples)."""
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def write_audio(path: Path, samples: NDArray[Any], rate: int = RATE, **options: Any) -> Path:
    """Write a sound file, and the folders it is in; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def write_m4a(path: Path, samples: NDArray[Any]) -> Path:
    """Write an AAC file of 16 kHz, as in VoxCeleb2, and the folders it is in; return its path."""
    av = pytest.importorskip("av", reason="m4a needs the extra av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="ipod") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            samples[None].astype(np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = RATE
        frame.pts = 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return path


def write_table(path: Path, rows: Mapping[str, object]) -> Path:
    """Write a Kaldi table (`utt2spk`, `wav.scp`), one `key value` a line; return its path."""
    lines = [f"{key} {value}\n" for key, value in rows.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def settle(module: nn.Module) -> None:
    """Give batch norms the statistics of a trained network: not those they begin with."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


def make_model(
    encoder: str | Mapping[str, Any] = "ecapa",
    about: Mapping[str, Any] | None = None,
    seed: int = 0,
    **features: Any,
) -> Model:
    """Build a small model in evaluation, with random weights and settled batch norms.

    Args:
        encoder: name of one of `ENCODERS`, or settings.
        about: what is known of the weights.
        seed: of the weights.
        features: settings of the front end; 24 mel bands unless they say otherwise.
    """
    if isinstance(encoder, str):
        encoder = ENCODERS[encoder]
    torch.manual_seed(seed)
    model = Model({"n_mels": 24, **features}, encoder, dict(about or {}))
    settle(model)
    return model.eval()


class ToyEncoder(interfaces.Encoder):
    """The mean of the frames, then two layers; for what does not depend on the encoder.

    Attributes:
        seen: shapes of the features that it was given, in their order.
    """

    def __init__(
        self, input_dim: int, embedding_dim: int = 16, hidden: int = 24, norm: bool = True
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.net = nn.Sequential(
            nn.Linear(input_dim, hidden),
            nn.BatchNorm1d(hidden) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Linear(hidden, embedding_dim),
        )
        self.seen: list[tuple[int, ...]] = []

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.seen.append(tuple(features.shape))
        return self.net(features.mean(1))


def readme_code(folder: str) -> list[str]:
    """Return the Python blocks of `speechssl/<folder>/README.md`: what a reader would copy."""
    text = (ROOT / "speechssl" / folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def readme_part(folder: str) -> str:
    """Make a module of the part that a folder's README adds as its example; return its name."""
    (code,) = readme_code(folder)
    module = types.ModuleType(f"{folder}_example")
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    return f"{module.__name__}:PART"


def load_script(script: str) -> types.ModuleType:
    """Return a Python script of the repository (path from its root), which is no part of a package."""
    path = ROOT / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script_command(script: str, *words: object) -> list[str]:
    """Return the command of a script of the repository (path from its root) and its arguments."""
    return ["bash", str(ROOT / script), *map(str, words)]


def run_script(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository with this Python, to its end, whatever that is."""
    command = script_command(script, *words)
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
