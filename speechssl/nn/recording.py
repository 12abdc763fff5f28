"""Whether a forward pass is being recorded, as a graph to compile or export, or simply run."""

from __future__ import annotations

import torch

__all__ = ["is_recorded", "is_traced"]


def is_traced() -> bool:
    """True inside `torch.jit.trace`, which cannot follow a custom `autograd.Function`."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_recorded() -> bool:
    """True inside `torch.jit.trace`, `torch.compile` or `torch.export`."""
    return torch.compiler.is_compiling() or is_traced()
