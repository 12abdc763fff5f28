"""Directions of embeddings, for figures on the sphere: vectors of zeros are one direction, too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_NORM = 1e-12
"""A vector shorter than this has no direction of its own."""


def directions(x: Tensor) -> Tensor:
    """Return unit vectors (..., D) of embeddings (..., D).

    `F.normalize` leaves a vector of zeros as it is: at the same distance from all others,
    equal ones included, so that embeddings that are all zero would look evenly spread.
    Where there are such vectors, one more dimension is added, in which they point: they
    are one point of the sphere, orthogonal to the rest.
    """
    unit = F.normalize(x, dim=-1)
    is_zero = x.norm(dim=-1, keepdim=True) < SMALLEST_NORM
    if not bool(is_zero.any()):
        return unit
    return torch.cat([unit.masked_fill(is_zero, 0), is_zero.to(unit.dtype)], -1)
