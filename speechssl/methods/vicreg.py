"""VICReg: invariance, a hinge on each dimension's deviation, no covariance.

Bardes et al. 2022 (ICLR); methods/README.md 5.2.

    L = 25 mean (z1 - z2)^2 + 25 * 1/2 sum_views mean_j relu(1 - std_j)
        + 1 sum_views sum_{i != j} Cov_ij^2 / D

std_j = sqrt(var_j + 1e-4), unbiased. Some programs leave out the 1/2, so that their 25
is 50 here. Shifting z changes nothing, scaling it does. At an exactly constant z the
gradient is zero.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from speechssl.interfaces import Encoder, Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


def variance_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return for one view z (N, D) the mean hinge on the deviations, and the covariance term."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    variance = covariance.diagonal()
    hinge = F.relu(1 - (variance + 1e-4).sqrt()).mean()
    off_diagonal = covariance.square().sum() - variance.square().sum()
    return hinge, off_diagonal / z.shape[1]


def vicreg_terms(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms of two views (N, D).

    Returns:
        Invariance, variance (half the sum over the views) and covariance (the sum).
    """
    hinge_one, covariance_one = variance_covariance(one)
    hinge_two, covariance_two = variance_covariance(two)
    invariance = F.mse_loss(one, two)
    variance = (hinge_one + hinge_two) / 2
    covariance = covariance_one + covariance_two
    return invariance, variance, covariance


class VICReg(PairMethod):
    """Encoder and three-layer projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        invariance_weight, variance_weight, covariance_weight: of the three terms.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "invariance": "invariance_weight",
        "variance": "variance_weight",
        "covariance": "covariance_weight",
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
        covariance_weight: float = 1.0,
    ) -> None:
        sizes = [encoder.embedding_dim, hidden, hidden, projection]
        super().__init__(encoder, mlp(sizes, output_bias=False))
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the three terms of two views (N, P)."""
        invariance, variance, covariance = vicreg_terms(one, two)
        loss = (
            self.invariance_weight * invariance
            + self.variance_weight * variance
            + self.covariance_weight * covariance
        )
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return loss, terms


PART = VICReg
