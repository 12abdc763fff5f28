"""Weights that a run starts from: ``train.init`` and ``train.init_method``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl import parts
from speechssl.errors import UserError
from speechssl.files import RunFolder, model_folder
from speechssl.interfaces import Method
from speechssl.model import Model
from speechssl.weights import read_checkpoint

_LONGEST_REASON = 300  # letters: a state may have a thousand keys


def load_encoder(model: Model, folder: str) -> None:
    """Load the encoder of a trained model into ``model`` (``train.init``).

    Args:
        model: as configured; its features must be those of the trained model.
        folder: model or run folder.

    Raises:
        UserError: features or encoder differ from those that are configured.
    """
    trained = Model.load(folder, allow_code=parts.outside_packages(model.settings))
    if trained.settings["features"] != model.settings["features"]:
        raise UserError(
            f"train.init: the model in {folder} has other features than section features; copy that"
            f" section from its config.yaml{_config_of(folder)}"
        )
    try:
        model.encoder.load_from(trained.encoder)
    except RuntimeError as error:
        raise UserError(
            f"train.init: the encoder in {folder} is not the one configured"
            f" ({_last_line(error)}); copy section encoder from its config.yaml{_config_of(folder)}"
        ) from error


def load_method(method: Method, folder: str) -> None:
    """Load the method of another run's last checkpoint (``train.init_method``).

    Buffers listed in ``Method.OWN_STATE`` keep their values.

    Args:
        method: as configured and prepared.
        folder: run folder.

    Raises:
        UserError: there is no checkpoint, or it is of another method, encoder or set of
            classes.
    """
    checkpoint = RunFolder(folder).last
    if not checkpoint.is_file():
        raise UserError(
            f"train.init_method: {checkpoint} does not exist; give a run folder of `speechssl"
            " train`"
        )
    trained = _method_state(checkpoint)
    own = method.state_dict()
    has_labels = "labels" in trained and "labels" in own
    if has_labels and not torch.equal(trained["labels"], own["labels"]):
        raise UserError(
            f"train.init_method: the run in {folder} was trained on other classes than"
            " data.pseudo_labels has; give the same file and data"
        )
    for name in method.OWN_STATE:
        trained[name] = own[name]
    try:
        method.load_state_dict(trained)
    except RuntimeError as error:
        raise UserError(
            f"train.init_method: the method in {folder} is not the one configured"
            f" ({_last_line(error)}); use the same method, encoder, data and pseudo-labels"
        ) from error


def _method_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state of the method in a run's checkpoint: tensors, by name."""
    trained = read_checkpoint(checkpoint).get("method")
    if isinstance(trained, dict):
        names_are_text = all(isinstance(name, str) for name in trained)
        if names_are_text and all(isinstance(value, Tensor) for value in trained.values()):
            return trained
    raise UserError(f"train.init_method: {checkpoint} holds no method; give another run folder")


def _config_of(folder: str) -> str:
    """Say how another program's model gets a `config.yaml`; "" for a folder that has one."""
    if model_folder(folder).existing() is not None:
        return ""
    return f", which speechssl.load({folder!r}).save_pretrained(DIR) writes"


def _last_line(error: RuntimeError) -> str:
    line = str(error).splitlines()[-1].strip()
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
