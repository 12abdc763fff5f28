"""TorchScript: `torch.jit.load("OUT/model.pt")(waves)`, (B, T) samples to (B, D) embeddings."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.exporters.waveforms import Waveforms, compare, example
from speechssl.model import Model


def traced(module: nn.Module, *inputs: Tensor) -> Any:
    """`module` as a TorchScript module for any batch size and length (the inputs only show it the
    way).
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(module.eval(), inputs, check_trace=False)


def write(model: Model, out: Path) -> None:
    """Write OUT/model.pt. Utterances of a batch are equally long, at least a window."""
    script = traced(Waveforms(model), example(model, 2.0))
    script.save(str(out / "model.pt"))
    print(
        compare(model, torch.jit.load(str(out / "model.pt")), str(out / "model.pt")),
        file=sys.stderr,
    )


PART = write
