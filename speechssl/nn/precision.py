"""What must stay in float32 while the rest of a step is computed in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor


def in_float32(x: Tensor) -> torch.autocast:
    """Return a context without autocast on the device of `x`.

    For losses, centring, Sinkhorn, covariances and decompositions.
    """
    return torch.autocast(x.device.type, enabled=False)
