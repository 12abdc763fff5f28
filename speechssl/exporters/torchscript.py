"""TorchScript: `torch.jit.load("OUT/model.pt")(waves)`, (B, T) samples to (B, D) embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.exporters.waveforms import Waveforms, example
from speechssl.files import atomic_write
from speechssl.model import Model


def trace(module: nn.Module, *inputs: Tensor) -> Any:
    """Return a module as TorchScript, for any batch size and length.

    The inputs are examples: tracing records the operations that they go through.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), inputs, check_trace=False
        )


def write(model: Model, out: Path) -> Callable[[Tensor], Tensor]:
    """Write OUT/model.pt.

    The utterances of a batch are equally long, at least one window of the features.
    """
    path = out / "model.pt"
    script = trace(Waveforms(model), example(model, 2.0))
    with atomic_write(path) as temporary:
        script.save(str(temporary))
    loaded: Callable[[Tensor], Tensor]
    loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return loaded


PART = write
