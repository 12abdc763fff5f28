"""Folders of transformers (`config.json`, `model.safetensors`): WavLM, HuBERT, wav2vec 2.0.

The folder holds a transformer and no speaker embedding: it is embedded with the mean and deviation
over frames of its layers' mean, and trained with a pooling of one's own (`train.init`, encoder
`transformer` with `pooling: mhfa`). Sizes are read from `config.json` and bounded; no code of the
folder is run, and weights in pickles are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl import config, foreign_json, parts, weights
from speechssl.errors import UserError
from speechssl.interfaces import ForeignFormat, ForeignModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"
TYPES = ("wavlm", "hubert", "wav2vec2")

_PREFIX = re.compile(r"^(wavlm|hubert|wav2vec2)\.")
_OF_NO_USE = re.compile(
    r"^(masked_spec_embed$|lm_head\.|quantizer\.|project_hid\.|project_q\.|classifier\.|projector\."
    r"|layer_weights$|tdnn\.|feature_extractor\.\w+$|objective\.)"
)
_OLD_NORM = (
    (".conv.weight_g", ".conv.parametrizations.weight.original0"),
    (".conv.weight_v", ".conv.parametrizations.weight.original1"),
)
"""Names of weight norm before and after torch 2.0."""


def recognises(path: Path) -> bool:
    """True for a folder whose `config.json` has one of `TYPES` as its `model_type`."""
    file = path / CONFIG
    if not file.is_file():
        return False
    try:
        return foreign_json.read(file).get("model_type") in TYPES
    except UserError:  # damaged: of transformers, if the other file is beside it
        return (path / PREPROCESSOR).is_file()


def read(path: Path) -> ForeignModel:
    """Read such a folder.

    Raises:
        UserError: weights that are no safetensors, or a form of the network that is not supported.
    """
    file = path / CONFIG
    written = foreign_json.read(file)
    weights_file = path / WEIGHTS
    if not weights_file.is_file():
        raise UserError(
            f"{path}: holds no {WEIGHTS}; pickles (pytorch_model.bin) are not read: save it with"
            " transformers' save_pretrained"
        )
    with foreign_json.damage(file, "give the folder as transformers wrote it"):
        encoder = _encoder(written, file)
        features = _features(path, written)
    state = _state(weights.read(weights_file))
    about = {"from": f"transformers, {written['model_type']}", "labels_used": "none"}
    if any(name.startswith(("lm_head.", "classifier.")) for name in weights.shapes(weights_file)):
        about["labels_used"] = "those of its last layer (words, classes)"
    return ForeignModel(features, encoder, state, weights_file, about)


def _encoder(written: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return section `encoder` for config.json.

    Raises:
        UserError: an activation or adapter that this package does not build.
    """
    for key, wanted in (("hidden_act", "gelu"), ("feat_extract_activation", "gelu")):
        if written.get(key, wanted) != wanted:
            raise UserError(
                f"{file}: {key} {str(written[key])[:40]!r} is not supported; known: {wanted}"
            )
    for key in ("add_adapter", "conv_pos_batch_norm"):
        if written.get(key):
            raise UserError(f"{file}: {key}: true is not supported")
    encoder: dict[str, Any] = {"name": "transformer", "pooling": "statistics"}
    known = config.schema(parts.find("encoders", "transformer"))
    for key in known:
        if key in written and key not in ("pooling", "frozen"):
            encoder[key] = written[key]
    return encoder


def _features(path: Path, written: Mapping[str, Any]) -> dict[str, Any]:
    """Return section `features`: `do_normalize` of the preprocessor, where there is one.

    Without it: large models (norm over layers) take normalised utterances, base models do not, as
    the published ones.
    """
    told: Mapping[str, Any] = {}
    if (path / PREPROCESSOR).is_file():
        told = foreign_json.read(path / PREPROCESSOR)
    normalises = told.get("do_normalize", written.get("feat_extract_norm", "group") == "layer")
    return {
        "name": "waveform",
        "sample_rate": told.get("sampling_rate", 16000),
        "normalise": "utterance" if normalises else "none",
    }


def _state(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the transformer's weights under the names of encoder `transformer`."""
    state = {}
    for name, tensor in held.items():
        new = _PREFIX.sub("", name)
        if _OF_NO_USE.match(new):
            continue
        for old, recent in _OLD_NORM:
            if new.endswith(old):
                new = new.removesuffix(old) + recent
        state[f"backbone.{new}"] = tensor.float()
    return state


PART = ForeignFormat(recognises, read, (CONFIG, WEIGHTS, PREPROCESSOR))
