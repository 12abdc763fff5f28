"""VIbCReg: VICReg with a better covariance term, made for time series (Lee and Aune 2021).

The covariance term is the mean over all D^2 entries of the squared off-diagonal *correlations*, one
view at a time, so it does not depend on scale; weights 25 / 25 / 200, and the projector may end in
iterative whitening (``iterations``: 5 as released, 0 without; methods/README.md 5.3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.interfaces import Progress
from speechssl.methods.vicreg import variance_covariance
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, width


def correlation_term(z: Tensor) -> Tensor:
    """Mean over D^2 of the squared off-diagonal correlations of one (N, D) view."""
    z = F.normalize(z - z.mean(0), dim=0)
    correlation = z.T @ z
    return (
        correlation.square().sum() - correlation.diagonal().square().sum()
    ) / correlation.numel()


def iterative_whitening(z: Tensor, iterations: int, eps: float = 1e-4) -> Tensor:
    """Z C^(-1/2) of centred (N, D) by Newton's iteration on the covariance scaled to unit trace."""
    z = z - z.mean(0)
    identity = torch.eye(z.shape[1], device=z.device)
    covariance = z.T @ z / len(z) + eps * identity
    trace = covariance.diagonal().sum()
    scaled, root = covariance / trace, identity
    for _ in range(iterations):
        root = 1.5 * root - 0.5 * root @ root @ root @ scaled
    return z @ root * torch.rsqrt(trace)


class VIbCReg(PairMethod):
    """Encoder and three-layer projector.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        invariance, variance, covariance: weights of the terms.
        iterations: of whitening at the projector's end, 0 = none.
    """

    min_batch = 4

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 256,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 200.0,
        iterations: int = 0,
    ) -> None:
        super().__init__(
            encoder, mlp([width(encoder), hidden, hidden, projection], output_bias=False)
        )
        self.weights, self.iterations = (invariance, variance, covariance), iterations

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum."""
        if self.iterations:
            one, two = (iterative_whitening(z, self.iterations) for z in (one, two))
        hinge = (variance_covariance(one)[0] + variance_covariance(two)[0]) / 2
        terms = {
            "invariance": F.mse_loss(one, two),
            "variance": hinge,
            "covariance": correlation_term(one) + correlation_term(two),
        }
        return sum(
            (w * t for w, t in zip(self.weights, terms.values(), strict=True)), hinge * 0
        ), terms


PART = VIbCReg
