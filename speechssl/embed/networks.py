"""Which network of a run embeds: the one that users get (`model/`), or another one of `last.pt`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl import parts
from speechssl.embed.mfcc import NAME, mfcc_model
from speechssl.embed.onnx import load_onnx
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.foreign import onnx_file
from speechssl.interfaces import Encoder, Method
from speechssl.model import Model, current_settings, read_saved_config
from speechssl.weights import read_checkpoint


def load_model(
    source: str | Path,
    network: str | None = None,
    *,
    features: str | None = None,
    allow_code: Collection[str] = (),
) -> Model:
    """Return a trained model, in evaluation mode.

    Args:
        source: a model folder, a run folder, an ONNX file, or ``mfcc``, the statistics
            without weights.
        network: one of the networks of the run's method (`interfaces.Method.networks`),
            such as `student` or `teacher`, as it was at the last save. A method with
            one network calls it `encoder`; `student` stands for it too. None: the
            network that the run saved, which is the teacher where there is one.
        features: what an ONNX file takes, where it does not say (`embed.onnx`).
        allow_code: packages outside this one whose encoders and methods the folder may
            name.

    Raises:
        UserError: no model there, code that was not allowed, or no such network; the
            message names those that there are.
    """
    if onnx_file.is_onnx(source):
        return load_onnx(Path(source), features)
    if features is not None:
        raise UserError(f"--features is for ONNX files, and {source} is none; leave it out")
    if network is not None:
        return _load_network(RunFolder(source), network, allow_code)
    is_mfcc = str(source) == NAME and not Path(source).exists()
    return mfcc_model() if is_mfcc else Model.load(source, allow_code=allow_code)


def _load_network(run: RunFolder, network: str, allow_code: Collection[str]) -> Model:
    """Return one of the networks of the last checkpoint of a run; see `load_model`."""
    if not run.last.is_file():
        raise UserError(
            f"embed: --network needs a run folder with {run.last.name}, which {run.path} is not"
        )
    written = read_saved_config(run.config, allow_code)
    saved = read_checkpoint(run.last)
    try:
        about = {"method": written["method"]["name"], "step": saved["step"], "network": network}
        _refuse_claims(written, saved["method"], run.last)
        model = Model.from_config(written, about)
        method = _method(written["method"], model.encoder, saved["method"], run.last)
    except UserError:
        raise
    except Exception as error:  # what Python and torch say of sections and sizes that make no sense
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"embed: {run.last} does not fit {run.config} ({type(error).__name__}: {reason}); give the"
            " run folder as training wrote it"
        ) from error
    networks = method.networks()
    if network == "student" and list(networks) == ["encoder"]:
        network = "encoder"
    if network not in networks:
        raise UserError(
            f"embed: no network {network!r} in the run {run.path}; it has {', '.join(networks)}"
        )
    model.encoder.load_state_dict(networks[network].state_dict())
    return model.eval()


def _refuse_claims(
    written: Mapping[str, Any], state: Mapping[str, Tensor], checkpoint: Path
) -> None:
    """Refuse a configuration that asks for more memory than its checkpoint is long.

    The networks are built without memory (on the device `meta`) to see how large they are.
    """
    current = current_settings(written)
    front_end = parts.build("features", parts.check("features", current["features"], "features"))
    section = parts.with_new_names("methods", written["method"])
    with torch.device("meta"):
        encoder = parts.build("encoders", current["encoder"], front_end.dim)
        method: Method = parts.build("methods", section, encoder)
    asked = sum(tensor.numel() * tensor.element_size() for tensor in method.parameters())
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if asked > held:
        raise UserError(
            f"embed: {checkpoint} holds {held} bytes of weights, its configuration asks for {asked};"
            " give the run folder as training wrote it"
        )


def _method(
    section: Mapping[str, Any], encoder: Encoder, state: Mapping[str, Tensor], path: Path
) -> Method:
    """Build the method of a run and load its saved networks.

    Memories have the size of the training set, which is not known here: they stay
    empty.
    """
    method: Method = parts.build("methods", parts.with_new_names("methods", section), encoder)
    own = method.state_dict()
    fitting = {}
    for name, value in state.items():
        if name in own and own[name].shape == value.shape:
            fitting[name] = value
    missing = method.load_state_dict(fitting, strict=False).missing_keys
    networks = method.networks()
    for module_name, module in method.named_modules():
        is_network = any(module is network for network in networks.values())
        if is_network and any(name.startswith(f"{module_name}.") for name in missing):
            raise UserError(
                f"embed: {path} does not hold the network {module_name} of the run's configuration;"
                " give the run folder as training wrote it"
            )
    return method
