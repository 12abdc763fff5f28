"""ONNX for sherpa-onnx: OUT/model.onnx, Kaldi features to embeddings, with the metadata that it reads.

For `sherpa_onnx.SpeakerEmbeddingExtractor`, which computes Kaldi's fbank of 80 bands itself. Input
`x` (batch, frames, 80), output `embedding` (batch, D); batch and frames are free axes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.config import thaw
from speechssl.errors import UserError
from speechssl.exporters.onnx import add_metadata, session, write_graph
from speechssl.exporters.waveforms import example
from speechssl.files import atomic_write
from speechssl.foreign.onnx_file import FEATURES_KEY
from speechssl.model import Model

FRONT_END: dict[str, Any] = {
    "name": "kaldi",
    "sample_rate": 16000,
    "frame_length": 0.025,
    "frame_shift": 0.010,
    "n_mels": 80,
    "preemphasis": 0.97,
    "normalise": "mean",
}
"""Settings that sherpa-onnx has fixed. Its `normalize_samples` stands for `scale`."""

NEARLY: dict[str, Any] = {
    "f_min": 20.0,
    "f_max": 7600.0,
    "window_type": "povey",
    "snip_edges": False,
}
"""Others that it has fixed. The models of wespeaker and 3D-Speaker that are published for it were
trained with other values of these and embed nearly the same with them."""

SHORTEST = 30  # frames


def write(model: Model, out: Path) -> Callable[[Tensor], Tensor] | None:
    """Write OUT/model.onnx.

    Raises:
        UserError: sherpa-onnx does not compute the model's features, or onnxscript is missing.
    """
    check_front_end(model.settings["features"])
    path = out / "model.onnx"
    frames = torch.export.Dim("frames", min=SHORTEST)
    with torch.no_grad():
        features, _ = model.front_end(example(model, 2.0, 3))
    with atomic_write(path) as temporary:
        write_graph(model.encoder, features, frames, temporary, ("x", "embedding"))
        add_metadata(temporary, _metadata(model))
    run = session(path)
    return None if run is None else lambda waves: run(model.front_end(waves)[0])


def check_front_end(features: dict[str, Any]) -> None:
    """Raise UserError for a front end that sherpa-onnx does not compute; warn if it nearly does."""
    for key, value in FRONT_END.items():
        if features.get(key) != value:
            raise UserError(
                f"export: sherpa-onnx computes features.{key} {value}, and not"
                f" {features.get(key)}; export to onnx, which takes waveforms"
            )
    for key, value in NEARLY.items():
        if features[key] != value:
            warnings.warn(
                f"sherpa-onnx computes features.{key} {value}, the model {features[key]}: its"
                " embeddings differ a little there",
                stacklevel=2,
            )
    if features["scale"] not in (1.0, 32768.0):
        raise UserError(
            f"export: sherpa-onnx computes features.scale 1 or 32768, not {features['scale']}"
        )


def _metadata(model: Model) -> dict[str, object]:
    """Return what sherpa-onnx wants to know."""
    return {
        "framework": "3d-speaker",  # of which only the features are meant
        "language": str(model.about.get("language", "unknown")),
        "comment": "exported by speechssl",
        "sample_rate": model.sample_rate,
        "output_dim": model.dim,
        "normalize_samples": int(model.settings["features"]["scale"] == 1.0),
        "feature_normalize_type": "global-mean",
        FEATURES_KEY: json.dumps(thaw(model.settings["features"])),
    }


PART = write
