"""ONNX: OUT/model.onnx, waveforms to embeddings, any batch and length.

Input `waves` (batch, samples), output `embeddings` (batch, D), both axes free.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.exporters.waveforms import Waveforms, compare, example
from speechssl.model import Model

_OPSET = 18


def write(model: Model, out: Path) -> None:
    """Write OUT/model.onnx, and compare it with the model where onnxruntime is installed.

    Utterances of a batch are equally long, at least half a second. Raises UserError without
    onnxscript.
    """
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError:
        raise UserError("export: ONNX needs onnxscript; pip install 'speechssl[export]'") from None
    path = out / "model.onnx"
    axes = {
        0: torch.export.Dim("batch", max=1 << 20),
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
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
        )
    try:
        import onnxruntime
    except ImportError:
        print(f"{path}: not compared with the model: onnxruntime is not installed", file=sys.stderr)
        return
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(waves: Tensor) -> Tensor:
        try:
            outputs = session.run(None, {"waves": waves.numpy()})
        except Exception as error:  # a front end whose shapes the exporter took for constants
            name = model.settings["features"]["name"]
            raise UserError(
                f"{path}: takes one batch size or length only ({str(error).splitlines()[0]}): ONNX"
                f" cannot express the front end {name!r}; export to torchscript"
            ) from error
        return torch.from_numpy(outputs[0])

    print(compare(model, run, str(path)), file=sys.stderr)


PART = write
