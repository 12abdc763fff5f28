"""Folders of wespeaker (`config.yaml`, `avg_model.pt`): ECAPA-TDNN, ResNet, CAM++.

Its features are Kaldi's with a Hamming window, on samples of 16 bits. Its names become ours; where
its program computes the same in another order, weights are permuted (`ecapa_weights`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl import foreign_json, foreign_yaml, weights
from speechssl.errors import UserError
from speechssl.interfaces import ForeignFormat, ForeignModel

CONFIG = "config.yaml"
WEIGHTS = "avg_model.pt"

_BLOCKS = {
    "ResNet18": ("basic", [2, 2, 2, 2]),
    "ResNet34": ("basic", [3, 4, 6, 3]),
    "ResNet50": ("bottleneck", [3, 4, 6, 3]),
    "ResNet101": ("bottleneck", [3, 4, 23, 3]),
    "ResNet152": ("bottleneck", [3, 8, 36, 3]),
    "ResNet221": ("bottleneck", [6, 16, 48, 3]),
    "ResNet293": ("bottleneck", [10, 20, 64, 3]),
}
_ECAPA = re.compile(r"ECAPA_TDNN_(GLOB_)?c(512|1024)")
_SCALE = 8  # groups of a Res2Net in its ECAPA
_ADDED_VARIANCE = 1e-7


def recognises(path: Path) -> bool:
    """True for a folder with `config.yaml` and `avg_model.pt`, or with its runtime's `final.zip`."""
    has_config = (path / CONFIG).is_file()
    return has_config and ((path / WEIGHTS).is_file() or (path / "final.zip").is_file())


def read(path: Path) -> ForeignModel:
    """Read such a folder.

    Raises:
        UserError: another encoder or front end than those that this package has, or TorchScript.
    """
    if not (path / WEIGHTS).is_file():
        raise UserError(
            f"{path / 'final.zip'}: is TorchScript, a program, which is not run; give the folder"
            f" with {WEIGHTS}"
        )
    file = path / CONFIG
    written = foreign_yaml.read(file)
    with foreign_json.damage(file, "give the config.yaml that wespeaker's training wrote"):
        features = _features(written, file)
        name = written["model"]
        arguments = written.get("model_args") or {}
        encoder = _encoder(name, arguments, file)
    weights_file = path / WEIGHTS
    state = {}
    for key, tensor in weights.read(weights_file).items():
        if not key.startswith("projection."):  # the classifier of training speakers
            state[key] = tensor
    with foreign_json.damage(weights_file, "give the weights that belong to config.yaml"):
        if encoder["name"] == "ecapa":
            state = ecapa_weights(state)
        elif encoder["name"] == "resnet":
            state = resnet_weights(state)
    about = {"from": "wespeaker", "encoder": name}
    return ForeignModel(features, encoder, state, weights_file, about)


def _features(written: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return section `features` for `dataset_args`."""
    dataset = written.get("dataset_args") or {}
    frontend = dataset.get("frontend", "fbank")
    if frontend != "fbank":
        raise UserError(
            f"{file}: the front end {str(frontend)[:40]!r} is not supported; known: fbank"
        )
    fbank = dataset.get("fbank_args") or {}
    cmvn = dataset.get("cmvn_args") or {}
    if cmvn.get("norm_var", False):
        raise UserError(f"{file}: cmvn_args.norm_var: true is not supported")
    subtracts = dataset.get("cmvn", True) and cmvn.get("norm_mean", True)
    return {
        "name": "kaldi",
        "sample_rate": dataset.get("resample_rate", 16000),
        "frame_length": fbank.get("frame_length", 25) / 1000,
        "frame_shift": fbank.get("frame_shift", 10) / 1000,
        "n_mels": fbank.get("num_mel_bins", 80),
        "window_type": "hamming",
        "normalise": "mean" if subtracts else "none",
    }


def _ecapa(name: re.Match[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return section `encoder` of an ECAPA-TDNN, whose name `_ECAPA` matched."""
    return {
        "name": "ecapa",
        "width": int(name[2]),
        "mfa_channels": 1536,
        "embedding_dim": arguments.get("embed_dim", 192),
        "global_context": name[1] is not None,
        "mfa_norm": False,
        "pooling": "tanh",
        "padding": "zeros",
        "embedding_norm": arguments.get("emb_bn", False),
    }


def _resnet(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return section `encoder` of a ResNet."""
    block_type, blocks = _BLOCKS[name]
    return {
        "name": "resnet",
        "blocks": blocks,
        "block_type": block_type,
        "embedding_dim": arguments.get("embed_dim", 128),
        "se_stages": 0,
        "pooling": "unbiased",
        "added_variance": _ADDED_VARIANCE,
        "pooled_norm": False,
        "embedding_norm": False,
    }


def _encoder(name: str, arguments: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return section `encoder` for `model` and `model_args`.

    Raises:
        UserError: this package has no such encoder.
    """
    if arguments.get("two_emb_layer", False):
        raise UserError(f"{file}: model_args.two_emb_layer: true is not supported")
    pooling = arguments.get("pooling_func", "ASTP" if name.startswith("ECAPA") else "TSTP")
    expected = "ASTP" if name.startswith("ECAPA") else "TSTP"
    if pooling != expected:
        raise UserError(
            f"{file}: pooling_func {str(pooling)[:40]!r} is not supported with {name[:40]}"
        )
    match = _ECAPA.fullmatch(name)
    if match:
        return _ecapa(match, arguments)
    if name in _BLOCKS:
        return _resnet(name, arguments)
    if name == "CAMPPlus":
        return {
            "name": "campplus",
            "embedding_dim": arguments.get("embed_dim", 512),
            "added_variance": _ADDED_VARIANCE,
        }
    known = ["ECAPA_TDNN_[GLOB_]c512|c1024", *_BLOCKS, "CAMPPlus"]
    raise UserError(f"{file}: model {name[:40]!r} is not supported; known: {', '.join(known)}")


def resnet_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return wespeaker's weights of a ResNet under our names.

    Its kernels have frequencies first, ours frames.
    """
    renamed = {}
    for name, tensor in state.items():
        name = name.replace(".shortcut.", ".downsample.")
        name = re.sub(r"^seg_1\.", "fc_embed.", name)
        renamed[name] = tensor.transpose(2, 3).contiguous() if tensor.dim() == 4 else tensor
    return renamed


_ECAPA_NAMES = (
    (r"^layer1\.conv\.", "blocks.0.conv.conv."),
    (r"^layer1\.bn\.", "blocks.0.norm.norm."),
    (r"\.se_res2block\.0\.conv\.", ".tdnn1.conv.conv."),
    (r"\.se_res2block\.0\.bn\.", ".tdnn1.norm.norm."),
    (r"\.se_res2block\.1\.convs\.(\d)\.", r".res2net_block.blocks.\1.conv.conv."),
    (r"\.se_res2block\.1\.bns\.(\d)\.", r".res2net_block.blocks.\1.norm.norm."),
    (r"\.se_res2block\.2\.conv\.", ".tdnn2.conv.conv."),
    (r"\.se_res2block\.2\.bn\.", ".tdnn2.norm.norm."),
    (r"\.se_res2block\.3\.linear([12])\.", r".se_block.conv\1.conv."),
    (r"^conv\.", "mfa.conv.conv."),
    (r"^pool\.", "asp."),
    (r"^bn\.", "asp_bn.norm."),
    (r"^linear\.", "fc.conv."),
    (r"^bn2\.", "fc_bn."),
)
_BLOCK = re.compile(r"^layer([234])\.")


def ecapa_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return wespeaker's weights of an ECAPA-TDNN under our names.

    wespeaker passes the last group of a Res2Net's channels through unchanged, this package the first:
    the last group of the layer before's outputs, and of the layer behind's inputs, moves to the front.
    """
    renamed = {}
    for name, tensor in state.items():
        new = _BLOCK.sub(lambda found: f"blocks.{int(found[1]) - 1}.", name)
        for pattern, replacement in _ECAPA_NAMES:
            new = re.sub(pattern, replacement, new)
        if tensor.dim() == 2:  # linear layers that are convolutions here
            tensor = tensor[:, :, None]
        if ".tdnn1." in new and tensor.dim() > 0:
            tensor = _last_group_first(tensor, 0)
        if new.endswith(".tdnn2.conv.conv.weight"):
            tensor = _last_group_first(tensor, 1)
        renamed[new] = tensor
    return renamed


def _last_group_first(tensor: Tensor, axis: int) -> Tensor:
    """Move the last of the 8 groups of channels along an axis to its front."""
    size = tensor.shape[axis] // _SCALE
    return torch.roll(tensor, size, axis)


PART = ForeignFormat(recognises, read, (CONFIG, WEIGHTS))
