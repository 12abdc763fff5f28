"""VICReg: invariance, a hinge on each dimension's deviation, no covariance.

Bardes et al. 2022, ICLR.

    L = 25 mean (z1 - z2)^2 + 25 * 1/2 sum_views mean_j relu(1 - std_j)
        + 1 sum_views sum_{i != j} Cov_ij^2 / D

std_j = sqrt(var_j + 1e-4), unbiased (methods/README.md 5.2). Some programs leave out the 1/2, so that
their 25 is our 50. Shifting z changes nothing, scaling it does. At an exactly constant z the
gradient is zero.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.interfaces import Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, width


def variance_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """The hinge on the deviations, mean over dimensions, and the covariance term, of one (N, D)
    view.
    """
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    variance = covariance.diagonal()
    hinge = F.relu(1 - (variance + 1e-4).sqrt()).mean()
    return hinge, (covariance.square().sum() - variance.square().sum()) / z.shape[1]


def vicreg_terms(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance (half the sum over views) and covariance (the sum) of two (N, D)
    views.
    """
    (hinge1, covariance1), (hinge2, covariance2) = (
        variance_covariance(one),
        variance_covariance(two),
    )
    return F.mse_loss(one, two), (hinge1 + hinge2) / 2, covariance1 + covariance2


class VICReg(PairMethod):
    """Encoder and three-layer projector.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        invariance, variance, covariance: weights of the terms.
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
        covariance: float = 1.0,
    ) -> None:
        super().__init__(
            encoder, mlp([width(encoder), hidden, hidden, projection], output_bias=False)
        )
        self.weights = (invariance, variance, covariance)

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum."""
        terms = dict(
            zip(("invariance", "variance", "covariance"), vicreg_terms(one, two), strict=True)
        )
        return sum(
            (w * t for w, t in zip(self.weights, terms.values(), strict=True)), one.new_zeros(())
        ), terms


PART = VICReg
