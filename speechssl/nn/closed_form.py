"""Predictors that are set in closed form from the correlation of the projections."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import Predictor


class Correlation(nn.Module):
    """Moving average F of E[z zᵀ] (D, D), un-normalised and uncentred; the first batch starts it.

    Args:
        dim: D.
        momentum: rho, the weight of the old value.
    """

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.value: Tensor
        self.seen: Tensor
        self.register_buffer("value", torch.zeros(dim, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Take in a batch (N, D)."""
        z = z.float()
        now = z.T @ z / len(z)
        momentum = torch.where(self.seen, self.momentum, 0.0)
        self.value.mul_(momentum).add_(now * (1 - momentum))
        self.seen.fill_(True)

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (D,), ascending, and eigenvectors (D, D, columns) of the symmetrised
        matrix.
        """
        return torch.linalg.eigh((self.value + self.value.T) / 2)


class ClosedForm(Predictor):
    """p = W z with a symmetric W that is set from the correlation of the projections, not trained.

    A subclass says how in ``weights()``. W starts as the identity and is overwritten after every
    ``frequency``-th step of the optimiser, step 0 included. Gradient reaches the encoder through W.
    """

    def __init__(self, dim: int, momentum: float, frequency: int) -> None:
        super().__init__()
        self.correlation = Correlation(dim, momentum)
        self.frequency = frequency
        self.weight: Tensor
        self.register_buffer("weight", torch.eye(dim))

    def weights(self) -> Tensor:
        """W (D, D) from the correlation as it stands."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """W z."""
        return z @ self.weight

    def observe(self, z: Tensor) -> None:
        """Update the correlation."""
        self.correlation.update(z)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Set W."""
        if step % self.frequency == 0:
            self.weight.copy_(self.weights())
