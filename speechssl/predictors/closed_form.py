"""What predictors share that are set in closed form from the correlation of the projections."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.interfaces import Predictor
from speechssl.nn.correlation import Correlation


class ClosedForm(Predictor):
    """A linear predictor p = W z whose symmetric W is not trained but set after a step.

    W starts as the identity. A subclass computes it from the correlation F of the
    projections, in `weights`; most change the eigenvalues of F and keep its
    eigenvectors (`spectral_map`). Gradient reaches the encoder through W.

    Args:
        dim: D, size of a projection.
        momentum: rho, the weight of the old correlation.
        frequency: set W after every so many steps of the optimiser, beginning with step
            0.

    Raises:
        UserError: `frequency` is below 1.
    """

    def __init__(self, dim: int, momentum: float, frequency: int) -> None:
        super().__init__()
        if frequency < 1:
            raise UserError(f"predictor.frequency must be at least 1, not {frequency}")
        self.correlation = Correlation(dim, momentum)
        self.frequency = frequency
        self.weight: Tensor
        self.register_buffer("weight", torch.eye(dim))

    def weights(self) -> Tensor:
        """Return W (D, D) for the correlation as it stands."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """Return W z, (N, D)."""
        return z @ self.weight

    def observe(self, z: Tensor) -> None:
        """Update the correlation by projections `z` (N, D)."""
        self.correlation.update(z)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Set W, if it is due after this step."""
        if step % self.frequency == 0:
            self.weight.copy_(self.weights())


def spectral_map(gains: Tensor, eigenvectors: Tensor) -> Tensor:
    """Return U diag(p) U^T (D, D) of gains p (D,) and eigenvectors U (D, D), in columns."""
    return eigenvectors @ (gains[:, None] * eigenvectors.T)


def relative_to_largest(eigenvalues: Tensor) -> Tensor:
    """Return s_j / max s (D,) of eigenvalues s (D,); rounding below 0 counts as 0."""
    eigenvalues = eigenvalues.clamp(min=0)
    return eigenvalues / eigenvalues.max().clamp(min=1e-30)
