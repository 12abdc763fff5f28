"""IsoLoss: DirectPred's predictor, with a gradient that goes around it.

Halvagal, Laborieux and Zenke 2023.

The value is the cosine of p = W z and the target t; the gradient with respect to z is taken to be
the one with respect to p,

    d cos / dz := t / (|p| |t|) - (p . t) p / (|p|^3 |t|),

so all eigenmodes learn at the same speed (methods/README.md 2.3). No moving-average target is needed.
W = U diag((s / max s + epsilon)^power) Uᵀ from the correlation of the projections.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from speechssl.nn.closed_form import ClosedForm


class IsoLoss(ClosedForm):
    """The spectral predictor around which the gradient goes.

    Args:
        momentum: rho, the weight of the old correlation.
        epsilon, power: of the gains.
        frequency: W is set after every so many steps.
    """

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 0.1,
        power: float = 0.5,
        frequency: int = 1,
    ) -> None:
        super().__init__(dim, momentum, frequency)
        self.epsilon, self.power = epsilon, power

    def weights(self) -> Tensor:
        """U diag((s / max s + epsilon)^power) Uᵀ."""
        s, u = self.correlation.spectrum()
        s = s.clamp(min=0)
        return u @ ((s / s.max().clamp(min=1e-30) + self.epsilon).pow(self.power)[:, None] * u.T)

    def cosine(self, z: Tensor, p: Tensor, target: Tensor) -> Tensor:
        """The cosine's value (N,); its gradient in p is handed to z as it is."""
        p = p.detach()
        cosine = F.cosine_similarity(p, target, dim=-1)
        length = p.norm(dim=-1, keepdim=True).clamp(min=1e-8)
        gradient = (F.normalize(target, dim=-1) - cosine[:, None] * p / length) / length
        return cosine.detach() + (gradient.detach() * (z - z.detach())).sum(-1)


PART = IsoLoss
