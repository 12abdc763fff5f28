"""The moving correlation matrix of projections, and its spectrum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Correlation"]


class Correlation(nn.Module):
    """Moving average F of E[z z^T], neither normalised nor centred (methods/README.md 2.4).

        F <- rho F + (1 - rho) mean_n z_n z_n^T,    from the first batch on

    Args:
        dim: D, size of a projection.
        momentum: rho, the weight of the old value.

    Attributes:
        value: F (D, D), float32.
        seen: () bool, False until the first batch, which is taken as it is.
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
        """Move F towards the correlation of a batch `z` (N, D)."""
        z = z.float()
        batch_value = z.T @ z / len(z)
        momentum = torch.where(self.seen, self.momentum, 0.0)
        self.value.mul_(momentum).add_(batch_value * (1 - momentum))
        self.seen.fill_(True)

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Return the eigenvalues (D,) of F, ascending, and its eigenvectors (D, D), in columns."""
        symmetric = (self.value + self.value.T) / 2
        eigenvalues, eigenvectors = torch.linalg.eigh(symmetric)
        return eigenvalues, eigenvectors
