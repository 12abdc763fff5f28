"""Folders of SpeechBrain's `EncoderClassifier`: ECAPA-TDNN, x-vector and ResNet.

`hyperparams.yaml` would have SpeechBrain import and call what it names. Here it is data: the names
of three classes stand for parts of this package, `!ref <name>` for another value of the file, and
all else that it names is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl import foreign_json, foreign_yaml, weights
from speechssl.errors import UserError
from speechssl.interfaces import ForeignFormat, ForeignModel

HYPERPARAMS = "hyperparams.yaml"
WEIGHTS = "embedding_model.ckpt"

_REFERENCE = re.compile(r"!ref <([A-Za-z_]\w*)>")
_MOST_REFERENCES = 20

_FBANK = {
    "n_mels": 40,
    "sample_rate": 16000,
    "n_fft": 400,
    "win_length": 25,
    "hop_length": 10,
    "f_min": 0,
    "f_max": None,
    "deltas": False,
    "context": False,
    "requires_grad": False,
    "filter_shape": "triangular",
    "left_frames": 5,
    "right_frames": 5,
    "param_change_factor": 1.0,
    "param_rand_factor": 0.0,
}
"""Arguments of SpeechBrain's Fbank and their defaults."""

_FIXED = ("deltas", "context", "filter_shape")
"""Arguments of Fbank that must have their defaults: the front end here has no such setting."""

_ENCODERS = (
    "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN",
    "speechbrain.lobes.models.Xvector.Xvector",
    "speechbrain.lobes.models.ResNet.ResNet",
)


def recognises(path: Path) -> bool:
    """True for a folder with `hyperparams.yaml` and `embedding_model.ckpt`."""
    return (path / HYPERPARAMS).is_file() and (path / WEIGHTS).is_file()


def read(path: Path) -> ForeignModel:
    """Read such a folder.

    Raises:
        UserError: another encoder or front end than those that this package has.
    """
    file = path / HYPERPARAMS
    written = foreign_yaml.read(file, keep_tags=True)
    with foreign_json.damage(file, "give the folder as SpeechBrain's recipe wrote it"):
        fbank = _arguments(written, "compute_features", file)
        _require_class(fbank, ("speechbrain.lobes.features.Fbank",), "compute_features", file)
        norm = _arguments(written, "mean_var_norm", file)
        features = _features(fbank, norm, file)
        model = _arguments(written, "embedding_model", file)
        encoder = _encoder(model, file)
    weights_file = path / WEIGHTS
    about = {"from": "speechbrain", "encoder": model["!"]}
    return ForeignModel(features, encoder, weights.read(weights_file), weights_file, about)


def _arguments(written: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    """Return the tag and the arguments of a value, references resolved.

    Raises:
        UserError: it is not there, or no `!new:` with arguments.
    """
    found = _resolved(written.get(key), written, file)
    if isinstance(found, str) and found.startswith("!new:"):
        found = {"!": found.removeprefix("!")}
    if not isinstance(found, Mapping) or not str(found.get("!", "")).startswith("new:"):
        raise UserError(f"{file}: {key} must be a !new: with arguments; this is no speaker encoder")
    arguments = {name: _resolved(value, written, file) for name, value in found.items()}
    return {**arguments, "!": str(found["!"]).removeprefix("new:")}


def _resolved(value: Any, written: Mapping[str, Any], file: Path) -> Any:
    """Return what a `!ref <name>` stands for, or `value` if it is none.

    Raises:
        UserError: a reference to nothing, in a circle, or with arithmetic.
    """
    for _ in range(_MOST_REFERENCES):
        if not (isinstance(value, str) and value.startswith("!ref")):
            return value
        match = _REFERENCE.fullmatch(value)
        if match is None or match[1] not in written:
            raise UserError(f"{file}: {value[:60]!r} is no reference to a value of this file")
        value = written[match[1]]
    raise UserError(f"{file}: references go in a circle")


def _require_class(
    arguments: Mapping[str, Any], known: tuple[str, ...], key: str, file: Path
) -> None:
    """Raise UserError if the class of `arguments` is none of `known`."""
    if arguments["!"] not in known:
        raise UserError(
            f"{file}: {key} is {str(arguments['!'])[:80]!r}, which is not supported; known:"
            f" {', '.join(known)}"
        )


def _features(fbank: Mapping[str, Any], norm: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return section `features` for the arguments of Fbank and InputNormalization."""
    given = {name: value for name, value in fbank.items() if name != "!"}
    unknown = sorted(given.keys() - _FBANK.keys())
    if unknown:
        raise UserError(f"{file}: compute_features has an unknown argument {unknown[0][:40]!r}")
    settings = {**_FBANK, **given}
    for name in _FIXED:
        if settings[name] != _FBANK[name]:
            raise UserError(f"{file}: compute_features.{name} {settings[name]!r} is not supported")
    _require_class(
        norm, ("speechbrain.processing.features.InputNormalization",), "mean_var_norm", file
    )
    if norm.get("norm_type", "global") != "sentence" or norm.get("std_norm", True):
        raise UserError(
            f"{file}: mean_var_norm must be norm_type: sentence, std_norm: False; other"
            " normalisations are not read"
        )
    return {
        "name": "speechbrain",
        "sample_rate": settings["sample_rate"],
        "n_fft": settings["n_fft"],
        "frame_length": settings["win_length"] / 1000,
        "frame_shift": settings["hop_length"] / 1000,
        "n_mels": settings["n_mels"],
        "f_min": float(settings["f_min"]),
        "f_max": None if settings["f_max"] is None else float(settings["f_max"]),
    }


def _encoder(model: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return section `encoder` for the class and arguments of the encoder."""
    _require_class(model, _ENCODERS, "embedding_model", file)
    kind = str(model["!"]).rpartition(".")[2]
    if kind == "ECAPA_TDNN":
        return _ecapa(model, file)
    if kind == "Xvector":
        return _xvector(model, file)
    return _resnet(model, file)


def _require_value(model: Mapping[str, Any], key: str, values: tuple[Any, ...], file: Path) -> None:
    """Raise UserError if an argument is given and none of `values`."""
    if key in model and model[key] not in values:
        raise UserError(f"{file}: embedding_model.{key} {str(model[key])[:60]!r} is not supported")


def _ecapa(model: Mapping[str, Any], file: Path) -> dict[str, Any]:
    channels = model.get("channels", [512, 512, 512, 512, 1536])
    kernels = model.get("kernel_sizes", [5, 3, 3, 3, 1])
    if len(set(channels[:-1])) != 1:
        raise UserError(
            f"{file}: embedding_model.channels {channels}: all but the last must be equal"
        )
    _require_value(model, "activation", ("!name:torch.nn.ReLU",), file)
    _require_value(model, "groups", ([1] * len(channels),), file)
    return {
        "name": "ecapa",
        "width": channels[0],
        "mfa_channels": channels[-1],
        "kernel_sizes": kernels,
        "dilations": model.get("dilations", [1, 2, 3, 4, 1]),
        "attention_channels": model.get("attention_channels", 128),
        "scale": model.get("res2net_scale", 8),
        "se_channels": model.get("se_channels", 128),
        "global_context": model.get("global_context", True),
        "embedding_dim": model.get("lin_neurons", 192),
    }


def _xvector(model: Mapping[str, Any], file: Path) -> dict[str, Any]:
    channels = model.get("tdnn_channels", [512, 512, 512, 512, 1500])
    _require_value(model, "activation", ("!name:torch.nn.LeakyReLU",), file)
    _require_value(model, "tdnn_blocks", (len(channels),), file)
    return {
        "name": "xvector",
        "channels": channels,
        "kernel_sizes": model.get("tdnn_kernel_sizes", [5, 3, 3, 1, 1]),
        "dilations": model.get("tdnn_dilations", [1, 2, 3, 1, 1]),
        "embedding_dim": model.get("lin_neurons", 512),
    }


def _resnet(model: Mapping[str, Any], file: Path) -> dict[str, Any]:
    _require_value(model, "activation", ("!name:torch.nn.ReLU",), file)
    _require_value(model, "strides", ([1, 2, 2, 2],), file)
    return {
        "name": "resnet",
        "channels": model.get("channels", [128, 128, 256, 256]),
        "blocks": model.get("block_sizes", [3, 4, 6, 3]),
        "embedding_dim": model.get("lin_neurons", 256),
    }


PART = ForeignFormat(recognises, read, (HYPERPARAMS, WEIGHTS))
