"""Uniformity on the sphere (Wang and Isola 2020; methods/README.md 4.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.diagnostics.directions import directions
from speechssl.interfaces import Diagnostic
from speechssl.nn.groups import same_group


def uniformity(z: Tensor, t: float = 2.0, groups: Tensor | None = None) -> Tensor:
    """Return log mean_{i<j} exp(-t |n(z_i) - n(z_j)|^2), differentiable.

    It is 0 when collapsed, about -2t when spread evenly in many dimensions; it hardly notices lost
    dimensions.

    Args:
        z: (N, D), N of at least 2.
        t: sharpness.
        groups: (N,) int64; pairs of one group do not count (-1: no group). Without any other pair
            the result is 0.
    """
    z = F.normalize(z, dim=-1)
    rows, columns = torch.triu_indices(len(z), len(z), 1, device=z.device)
    exponents = -t * (2 - 2 * (z @ z.T)[rows, columns])
    if groups is None:
        return torch.logsumexp(exponents, 0) - math.log(len(rows))
    # Masked, not chosen: a choice would wait for the device.
    counts = ~same_group(groups, groups)[rows, columns]
    others = exponents.masked_fill(~counts, torch.finfo(exponents.dtype).min)
    number = counts.sum().to(exponents.dtype)
    value = torch.logsumexp(others, 0) - number.clamp(min=1).log()
    return torch.where(number > 0, value, 0.0 * exponents.sum())


PART = Diagnostic(
    lambda x: float(uniformity(directions(x.float()[:4096]))),
    healthy=lambda n, d: (-4.5, -1.0),
    collapsed=lambda value, n, d: value > -0.1,
    tells="how evenly embeddings cover the sphere; -4 even, 0 = one point",
    better="lower",
)
