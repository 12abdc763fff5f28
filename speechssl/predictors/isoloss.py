"""IsoLoss: DirectPred's predictor, with a gradient that goes around it.

Halvagal, Laborieux and Zenke 2023 (arXiv 2212.04858); methods/README.md 2.3.

The value is the cosine of p = W z and the target t; the gradient with respect to z is
taken to be the one with respect to p,

    d cos / dz := t / (|p| |t|) - (p . t) p / (|p|^3 |t|),

so all eigenmodes learn at the same speed. No moving-average target is needed.

    W = U diag((s / max s + epsilon)^power) U^T    for F = U diag(s) U^T, the correlation of z

The released program sets W within the forward pass, from a moment that holds this batch:
that is ``timing: forward``. By default W is set after the optimiser's step, as those of
the other predictors, and so is one batch older. The program's value is a surrogate whose
gradient is this one; here it is the cosine itself.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from speechssl.errors import UserError
from speechssl.predictors.closed_form import (
    ClosedForm,
    relative_to_largest,
    spectral_map,
)


class IsoLoss(ClosedForm):
    """The spectral predictor around which the gradient goes.

    Args:
        dim: D, size of a projection.
        momentum: rho, the weight of the old correlation.
        epsilon: lifts small gains.
        power: exponent of the gains.
        frequency: set W after every so many steps.
        timing: set W after the optimiser's `step`, or in the `forward` pass, with this
            batch (`frequency` then has to be 1).

    Raises:
        UserError: `frequency` is below 1, or not 1 with `timing: forward`.
    """

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 0.1,
        power: float = 0.5,
        frequency: int = 1,
        timing: Literal["step", "forward"] = "step",
    ) -> None:
        super().__init__(dim, momentum, frequency)
        if timing == "forward" and frequency != 1:
            raise UserError(
                f"predictor.frequency must be 1 with predictor.timing=forward, not {frequency}"
            )
        self.timing = timing
        self.epsilon = epsilon
        self.power = power

    def weights(self) -> Tensor:
        """Return U diag((s / max s + epsilon)^power) U^T."""
        eigenvalues, eigenvectors = self.correlation.spectrum()
        gains = (relative_to_largest(eigenvalues) + self.epsilon).pow(self.power)
        return spectral_map(gains, eigenvectors)

    def observe(self, z: Tensor) -> None:
        """Update the correlation by projections `z` (N, D), and W where this is its time."""
        super().observe(z)
        if self.timing == "forward":
            super().after_step(0)

    def after_step(self, step: int) -> None:
        """Set W, if it is due after this step and was not set in the forward pass."""
        if self.timing == "step":
            super().after_step(step)

    def cosine(self, z: Tensor, p: Tensor, target: Tensor) -> Tensor:
        """Return the cosine (N,) of `p` and `target`, whose gradient in p is handed to `z`.

        Args:
            z: (N, D) projections, with gradient.
            p: (N, D) predictions.
            target: (N, D), without gradient.
        """
        p = p.detach()
        cosine = F.cosine_similarity(p, target, dim=-1).detach()
        length = p.norm(dim=-1, keepdim=True).clamp(min=1e-8)
        gradient = (F.normalize(target, dim=-1) - cosine[:, None] * p / length) / length
        zero_with_gradient: Tensor = (gradient.detach() * (z - z.detach())).sum(-1)
        return cosine + zero_with_gradient


PART = IsoLoss
