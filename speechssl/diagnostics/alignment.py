"""Alignment of views of one utterance (Wang and Isola 2020; methods/README.md 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Diagnostic


def alignment(one: Tensor, two: Tensor, alpha: float = 2.0) -> Tensor:
    """E |n(z1) - n(z2)|^alpha over pairs (N, D): 2 - 2 cos at alpha = 2; differentiable."""
    return (F.normalize(one, dim=-1) - F.normalize(two, dim=-1)).norm(dim=-1).pow(alpha).mean()


def mean_alignment(views: Tensor) -> float:
    """Mean over all pairs of (V, N, D) views."""
    count = len(views)
    pairs = [(u, v) for u in range(count) for v in range(u + 1, count)]
    return float(
        torch.stack([alignment(views[u].float(), views[v].float()) for u, v in pairs]).mean()
    )


PART = Diagnostic(
    mean_alignment,
    healthy=lambda n, d: (0.01, 1.4),
    collapsed=lambda value, n, d: value < 1e-4,
    tells="squared distance of two crops of one utterance; low is good unless everything is near",
    needs="views",
)
