"""Alignment of views of one utterance (Wang and Isola 2020; methods/README.md 4.1)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Diagnostic


def alignment(one: Tensor, two: Tensor, alpha: float = 2.0) -> Tensor:
    """Return E |n(z1) - n(z2)|^alpha over pairs of rows of two (N, D): 2 - 2 cos at alpha = 2.

    It is differentiable.
    """
    distance: Tensor = (F.normalize(one, dim=-1) - F.normalize(two, dim=-1)).norm(dim=-1)
    return distance.pow(alpha).mean()


def mean_alignment(views: Tensor) -> float:
    """Return the mean of `alignment` over all pairs of views (V, N, D)."""
    pairs = itertools.combinations(views.float(), 2)
    return float(torch.stack([alignment(one, two) for one, two in pairs]).mean())


PART = Diagnostic(
    mean_alignment,
    healthy=lambda n, d: (0.01, 1.4),
    collapsed=lambda value, n, d: value < 1e-4,
    tells="squared distance of two crops of one utterance; low is good unless everything is near",
    needs="views",
)
