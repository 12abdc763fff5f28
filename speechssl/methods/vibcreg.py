"""VIbCReg: VICReg with a better covariance term, made for time series (Lee and Aune 2021).

The covariance term is the mean over all D^2 entries of the squared off-diagonal
*correlations* of each view, summed over the views, so it does not depend on scale;
weights 25 / 25 / 200. The projector may end in iterative whitening
(``whitening_iterations``: 5 as released, 0 without; methods/README.md 5.3). The
variance term is half the sum over the views, where the program has the sum:
``variance_weight: 50`` is its 25.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.interfaces import Encoder, Progress
from speechssl.methods.vicreg import variance_covariance
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


def correlation_term(z: Tensor) -> Tensor:
    """Return the mean over D^2 of the squared off-diagonal correlations of one view z (N, D)."""
    z = F.normalize(z - z.mean(0), dim=0)
    correlation = z.T @ z
    off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
    return off_diagonal / correlation.numel()


def iterative_whitening(z: Tensor, iterations: int, eps: float = 1e-4) -> Tensor:
    """Return centred z (N, D) times C^(-1/2), C its covariance + eps I.

    Newton's iteration finds the root of the covariance scaled to unit trace.
    """
    z = z - z.mean(0)
    identity = torch.eye(z.shape[1], device=z.device)
    covariance = z.T @ z / len(z) + eps * identity
    trace = covariance.diagonal().sum()
    scaled = covariance / trace
    root = identity
    for _ in range(iterations):
        root = 1.5 * root - 0.5 * root @ root @ root @ scaled
    return z @ root * torch.rsqrt(trace)


class VIbCReg(PairMethod):
    """Encoder and three-layer projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        invariance_weight, variance_weight, covariance_weight: of the three terms.
        whitening_iterations: Newton steps of the whitening at the projector's end, 0 =
            none.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "invariance": "invariance_weight",
        "variance": "variance_weight",
        "covariance": "covariance_weight",
        "iterations": "whitening_iterations",
    }
    min_batch = 4

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 256,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 200.0,
        whitening_iterations: int = 0,
    ) -> None:
        sizes = [encoder.embedding_dim, hidden, hidden, projection]
        super().__init__(encoder, mlp(sizes, output_bias=False))
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.whitening_iterations = whitening_iterations

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the three terms of two views (N, P)."""
        if self.whitening_iterations:
            one = iterative_whitening(one, self.whitening_iterations)
            two = iterative_whitening(two, self.whitening_iterations)
        hinge_one, _ = variance_covariance(one)
        hinge_two, _ = variance_covariance(two)
        invariance = F.mse_loss(one, two)
        variance = (hinge_one + hinge_two) / 2
        covariance = correlation_term(one) + correlation_term(two)
        loss = (
            self.invariance_weight * invariance
            + self.variance_weight * variance
            + self.covariance_weight * covariance
        )
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return loss, terms


PART = VIbCReg
