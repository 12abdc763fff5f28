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
from typing import Any

import torch
from torch import Tensor, nn

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
    path = out / "model.onnx"
    samples = torch.export.Dim("samples", min=model.sample_rate // 2)
    with atomic_write(path) as temporary:
        write_graph(
            Waveforms(model), example(model, 2.0, 3), samples, temporary, ("waves", "embeddings")
        )
        waveform = {"name": "waveform", "sample_rate": model.sample_rate}
        add_metadata(temporary, {FEATURES_KEY: json.dumps(waveform), "output_dim": model.dim})
    return session(path)


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


def write_graph(
    module: nn.Module, inputs: Tensor, length: Any, path: Path, names: tuple[str, str]
) -> None:
    """Write a module's graph for any batch and length; the exporter's own messages are silenced.

    Args:
        module: of one input and one output.
        inputs: an example, (B, length, ...).
        length: the `torch.export.Dim` of its second axis.
        path: the file.
        names: of input and output.

    Raises:
        UserError: onnxscript is missing, which torch's exporter needs.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("export: ONNX needs onnxscript; pip install 'speechssl[export]'") from None
    axes = {0: torch.export.Dim("batch", max=LARGEST_BATCH), 1: length}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (inputs,),
            str(path),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=(axes,),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )


def session(path: Path) -> Callable[[Tensor], Tensor] | None:
    """Return a function that runs a file of one input, None where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name

    def run(inputs: Tensor) -> Tensor:
        (embeddings,) = opened.run(None, {name: inputs.numpy()})
        return torch.from_numpy(embeddings)

    return run


PART = write
