"""How far a moving average is from what it follows (methods/README.md 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_gap(student: nn.Module, teacher: nn.Module) -> float:
    """Return |theta - theta_ema| / |theta| over all parameters; it falls slowly in a healthy run."""
    ours: list[Tensor] = list(student.parameters())
    theirs: list[Tensor] = list(teacher.parameters())
    gap = torch.stack(torch._foreach_norm(torch._foreach_sub(ours, theirs))).norm()
    norm = torch.stack(torch._foreach_norm(ours)).norm()
    return float(gap / norm.clamp(min=1e-30))
