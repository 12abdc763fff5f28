"""The centre's energy and how fast a step changes it (a stand-in, inspired by Wang Y. et al. 2022).

Their indicator of the uniformity metric and its local dynamics were read in an abstract only; what
is computed here is (methods/README.md 4.2)

    U = |E n(z)|^2                       0 uniform, 1 collapsed (about the mean cosine of different samples)
    rate of U = 2 mᵀ E[dn/dt],  dz/dt = -dL/dz,  m = E n(z)

A positive rate at U > 0 is a drift towards collapse. Without predictor the rate of a cosine loss is
close to 2 (1 - c) U, never negative; a predictor whose gain rises with the spectrum makes it
negative when the mean dominates, one with a falling gain makes it worse than none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.diagnostics.directions import directions
from speechssl.interfaces import Diagnostic


def uniformity_indicator(embeddings: Tensor) -> float:
    """Return U of (N, D)."""
    return float(directions(embeddings.float()).mean(0).square().sum())


def uniformity_rate(z: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """Return the rate of U when z (N, D) follows the negative gradient of ``loss(z)`` (a mean).

    The gradient is that of a sample (N times that of the mean), in feature space, tangent to the
    sphere.
    """
    z = F.normalize(z.detach(), dim=-1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z), z)
    with torch.no_grad():
        velocity = -gradient * len(z)
        velocity = velocity - (velocity * z).sum(-1, keepdim=True) * z
        return float(2 * z.mean(0) @ velocity.mean(0))


PART = Diagnostic(
    uniformity_indicator,
    healthy=lambda n, d: (0.0, 0.5),
    collapsed=lambda value, n, d: value > 0.95,
    tells="squared norm of the mean direction; 1 = one point",
)
