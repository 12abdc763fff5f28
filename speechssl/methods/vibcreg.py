"""VIbCReg: VICReg with a better covariance term, made for time series (Lee and Aune 2021).

    L = 25 mean (z1 - z2)^2 + 25 sum_views mean_j relu(1 - std_j)
        + 200 sum_views mean_ij (off-diagonal correlation)^2

(methods/README.md 5.3). The mean of the covariance term is over all D^2 entries, the
diagonal included, so it does not depend on scale. The variance term is the sum over the
views, twice VICReg's. As released, z comes out of an iterative whitening at the
projector's end: in groups of channels, with a learned scale and shift
(``whitening_iterations: 0`` leaves it out). The whitening has the statistics of the
batch, of all processes; the released one also keeps running ones for evaluation, where
the projector is not used.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.errors import UserError
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


def iterative_whitening(z: Tensor, iterations: int, eps: float = 1e-5, channels: int = 0) -> Tensor:
    """Return centred z (N, D) times C^(-1/2), C the covariance (biased) + eps I of each group.

    Newton's iteration finds the root of the covariance scaled to unit trace (Huang et
    al. 2019).

    Args:
        z: (N, D).
        iterations: steps of Newton.
        eps: added to the diagonal.
        channels: neighbouring channels that are whitened together, a divisor of D; 0:
            all D.
    """
    channels = channels or z.shape[1]
    grouped = (z - z.mean(0)).reshape(len(z), -1, channels).transpose(0, 1)  # (G, N, C)
    identity = torch.eye(channels, device=z.device, dtype=z.dtype)
    covariance = grouped.mT @ grouped / len(z) + eps * identity
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    scaled = covariance / trace
    root = identity.expand_as(scaled)
    for _ in range(iterations):
        root = 1.5 * root - 0.5 * torch.linalg.matrix_power(root, 3) @ scaled
    whitened: Tensor = grouped @ root * torch.rsqrt(trace)
    return whitened.transpose(0, 1).flatten(1)


def channels_of_a_group(dim: int, groups: int) -> int:
    """Return how many of D channels are whitened together, for about so many groups.

    It is D / groups, rounded up, and halved until it divides D, as released.
    """
    channels = (dim - 1) // groups + 1
    while dim % channels:
        channels //= 2
    return channels


class IterativeWhitening(nn.Module):
    """`iterative_whitening` of (N, D) with a learned scale and shift of each channel.

    Args:
        dim: D.
        iterations: steps of Newton.
        groups: about how many groups of channels (see `channels_of_a_group`).
    """

    def __init__(self, dim: int, iterations: int, groups: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.channels = channels_of_a_group(dim, groups)
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        """Return whitened projections (N, D)."""
        whitened = iterative_whitening(z, self.iterations, channels=self.channels)
        return whitened * self.weight + self.bias


class VIbCReg(PairMethod):
    """Encoder and three-layer projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        invariance_weight, variance_weight, covariance_weight: of the three terms.
        whitening_iterations: Newton steps of the whitening at the projector's end, 0 =
            none.
        whitening_groups: groups of channels that are whitened apart: one channel each
            at a projection of 64, four at 256; 1 = all together.

    Raises:
        UserError: ``whitening_groups`` is below 1.
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
        whitening_iterations: int = 5,
        whitening_groups: int = 64,
    ) -> None:
        if whitening_groups < 1:
            raise UserError(
                f"method vibcreg: whitening_groups must be at least 1, not {whitening_groups}"
            )
        sizes = [encoder.embedding_dim, hidden, hidden, projection]
        super().__init__(encoder, mlp(sizes, output_bias=False))
        self.whitening: nn.Module = nn.Identity()
        if whitening_iterations:
            self.whitening = IterativeWhitening(projection, whitening_iterations, whitening_groups)
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the three terms of two views (N, P)."""
        one = self.whitening(one)
        two = self.whitening(two)
        hinge_one, _ = variance_covariance(one)
        hinge_two, _ = variance_covariance(two)
        invariance = F.mse_loss(one, two)
        variance = hinge_one + hinge_two
        covariance = correlation_term(one) + correlation_term(two)
        loss = (
            self.invariance_weight * invariance
            + self.variance_weight * variance
            + self.covariance_weight * covariance
        )
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return loss, terms


PART = VIbCReg
