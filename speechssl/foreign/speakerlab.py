"""Weights of 3D-Speaker (`*.bin`, `*.ckpt`, or their folder): CAM++, ERes2NetV2, ECAPA-TDNN.

The released files hold a state dict and nothing else, so the encoder and its sizes are found in the
names and shapes of the weights. Its features are Kaldi's on samples in -1..1, 16 kHz.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl import foreign_json, weights
from speechssl.errors import UserError
from speechssl.interfaces import ForeignFormat, ForeignModel

CONFIGURATION = "configuration.json"
_SUFFIXES = (".bin", ".ckpt", ".pt")
_WIDEST = 64  # base_width is given for this many channels


def recognises(path: Path) -> bool:
    """True for a file of weights, or for a folder with `configuration.json` and one such file."""
    if path.is_file():
        return path.suffix in _SUFFIXES
    return (path / CONFIGURATION).is_file() and bool(_files(path))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())


def read(path: Path) -> ForeignModel:
    """Read such a file or folder.

    Raises:
        UserError: other weights than those of the three encoders, or several files of them.
    """
    file = path
    if path.is_dir():
        files = _files(path)
        if len(files) != 1:
            names = ", ".join(found.name for found in files)
            raise UserError(f"{path}: holds several files of weights ({names}); give one of them")
        file = files[0]
    state = weights.read(file)
    with foreign_json.damage(file, "give a file of weights that 3D-Speaker has released"):
        n_mels, encoder = _encoder(state, file)
    features = {"name": "kaldi", "n_mels": n_mels, "window_type": "povey", "scale": 1.0}
    return ForeignModel(features, encoder, state, file, {"from": "3D-Speaker"})


def _encoder(state: Mapping[str, Tensor], file: Path) -> tuple[int, dict[str, Any]]:
    """Return M and section `encoder` for the weights.

    Raises:
        UserError: they are of another encoder.
    """
    if "xvector.dense.linear.weight" in state:
        return _campplus(state)
    if "fuse34.local_att.0.weight" in state:
        return _eres2netv2(state)
    if "asp.tdnn.conv.conv.weight" in state:
        return _ecapa(state)
    raise UserError(
        f"{file}: its weights are of no encoder that is read; known: CAM++, ERes2NetV2 and"
        " ECAPA-TDNN of 3D-Speaker (a model folder or run is given as a folder)"
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many numbers the group of `pattern` takes in the names of the weights."""
    found = re.compile(pattern)
    return len({match[1] for name in state if (match := found.match(name))})


def _campplus(state: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    tdnn = state["xvector.tdnn.linear.weight"]
    head = state["head.conv1.weight"].shape[0]
    growth_rate, bottleneck, _ = state["xvector.block1.tdnnd1.cam_layer.linear_local.weight"].shape
    encoder = {
        "name": "campplus",
        "head_channels": head,
        "width": tdnn.shape[0],
        "layers": [_count(state, rf"xvector\.block{n}\.tdnnd(\d+)\.") for n in (1, 2, 3)],
        "growth_rate": growth_rate,
        "bottleneck": bottleneck // growth_rate,
        "embedding_dim": state["xvector.dense.linear.weight"].shape[0],
    }
    return 8 * tdnn.shape[1] // head, encoder


def _eres2netv2(state: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    width = state["conv1.weight"].shape[0]
    expansion = state["layer1.0.conv3.weight"].shape[0] // width
    group = state["layer4.0.convs.0.weight"].shape[0]  # 8 x width channels
    embedding_dim, pooled = state["seg_1.weight"].shape
    encoder = {
        "name": "eres2netv2",
        "width": width,
        "blocks": [_count(state, rf"layer{n}\.(\d+)\.") for n in (1, 2, 3, 4)],
        "base_width": -(-group * _WIDEST // (8 * width)),  # rounded up
        "scale": _count(state, r"layer1\.0\.convs\.(\d+)\."),
        "expansion": expansion,
        "embedding_dim": embedding_dim,
    }
    frequencies = pooled // (2 * 8 * width * expansion)
    return 8 * frequencies, encoder


def _ecapa(state: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    width, n_mels, _ = state["blocks.0.conv.conv.weight"].shape
    mfa_channels = state["mfa.conv.conv.weight"].shape[0]
    attention_channels, attended, _ = state["asp.tdnn.conv.conv.weight"].shape
    encoder = {
        "name": "ecapa",
        "width": width,
        "mfa_channels": mfa_channels,
        "scale": _count(state, r"blocks\.1\.res2net_block\.blocks\.(\d+)\.") + 1,
        "se_channels": state["blocks.1.se_block.conv1.conv.weight"].shape[0],
        "attention_channels": attention_channels,
        "global_context": attended == 3 * mfa_channels,
        "embedding_dim": state["fc.conv.weight"].shape[0],
    }
    return n_mels, encoder


PART = ForeignFormat(recognises, read, (CONFIGURATION, "*.bin", "*.ckpt"))
