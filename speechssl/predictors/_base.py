"""What every predictor is: a map of projections, with hooks for those that are set in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ParameterRule(NamedTuple):
    """How the optimiser treats some parameters: ``scale`` times the learning rate, ``constant`` at its peak
    (no warm-up, no decay: SimSiam's predictor), with or without weight ``decay``."""

    parameters: Sequence[nn.Parameter]
    scale: float = 1.0
    constant: bool = False
    decay: bool = True


class Predictor(nn.Module):
    """h: projections z (N, D) to predictions p (N, D) of the target.

    A part's constructor takes ``dim`` (D) and its settings.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Predictions (N, D)."""
        raise NotImplementedError

    def cosine(self, z: Tensor, p: Tensor, target: Tensor) -> Tensor:
        """Cosine of prediction and target, (N,), to be maximised; ``p`` is ``self(z)``."""
        return F.cosine_similarity(p, target, dim=-1)

    def observe(self, z: Tensor) -> None:
        """Look at the un-normalised projections (N, D) of a step, detached and of all processes."""

    def after_step(self, step: int) -> None:
        """Runs after the optimiser's step number ``step``."""

    def rule(self) -> ParameterRule | None:
        """How the optimiser treats this predictor, where not as everything else."""
        return None


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
        """Eigenvalues (D,), ascending, and eigenvectors (D, D, columns) of the symmetrised matrix."""
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
