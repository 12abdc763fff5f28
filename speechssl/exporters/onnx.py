"""ONNX: OUT/model.onnx, waveforms to embeddings, any batch and length.

Input `waves` (batch, samples), output `embeddings` (batch, D); batch and samples are free axes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.exporters.waveforms import Waveforms, example
from speechssl.files import atomic_write
from speechssl.foreign.onnx_file import FEATURES_KEY
from speechssl.model import Model

OPSET = 18
LARGEST_BATCH = 1 << 20


def write(model: Model, out: Path) -> Callable[[Tensor], Tensor] | None:
    """Write OUT/model.onnx.

    The utterances of a batch are equally long, at least half a second.

    Raises:
        UserError: onnxscript is missing, which torch's exporter needs.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("export: ONNX needs onnxscript; pip install 'speechssl[export]'") from None
    path = out / "model.onnx"
    with atomic_write(path) as temporary:
        _export(model, temporary)
        waveform = {"name": "waveform", "sample_rate": model.sample_rate}
        add_metadata(temporary, {FEATURES_KEY: json.dumps(waveform), "output_dim": model.dim})
    return _session(path)


def add_metadata(path: Path, told: Mapping[str, object]) -> None:
    """Write key and value into the metadata of an ONNX file.

    `FEATURES_KEY` is section `features` of what the file takes, as JSON: with it
    `speechssl.load` takes the file as it is.
    """
    import onnx

    graph = onnx.load(str(path))
    for key, value in told.items():
        entry = graph.metadata_props.add()
        entry.key = key
        entry.value = str(value)
    onnx.save(graph, str(path))


def _export(model: Model, path: Path) -> None:
    """Write the graph; the exporter's own messages are silenced."""
    axes = {
        0: torch.export.Dim("batch", max=LARGEST_BATCH),
        1: torch.export.Dim("samples", min=model.sample_rate // 2),
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Waveforms(model).eval(),
            (example(model, 2.0, 3),),
            str(path),
            input_names=["waves"],
            output_names=["embeddings"],
            dynamic_shapes=(axes,),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )


def _session(path: Path) -> Callable[[Tensor], Tensor] | None:
    """Return a function that runs the file, None where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(waves: Tensor) -> Tensor:
        (embeddings,) = session.run(None, {"waves": waves.numpy()})
        return torch.from_numpy(embeddings)

    return run


PART = write
