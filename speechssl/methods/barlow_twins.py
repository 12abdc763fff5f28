"""Barlow Twins: make the cross-correlation of two views the identity (Zbontar et al. 2021, ICML).

With C = bn(z1)ᵀ bn(z2) / B (methods/README.md 5.1):  L = scale * [sum_i (C_ii - 1)^2 + lambda sum_{i != j}
C_ij^2].

Both branches get gradient. lambda is 0.0051 at 8,192 dimensions in the paper; by default it is set
from the dimension, 0.005 * 2048 / D and at most 0.05. The released programs multiply the loss by
0.025 to 0.1, with which the learning rate goes: ours is 0.1. D should be at most four times the
batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, width


def barlow_loss(one: Tensor, two: Tensor, off_diagonal: float) -> tuple[Tensor, Tensor]:
    """Terms on and off the diagonal (the second times ``off_diagonal``) of two views (N, D),
    float32.

    A dimension without variance gives zero correlations, hence 1 each on the diagonal.
    """
    correlation = standardised(one).T @ standardised(two) / len(one)
    diagonal = correlation.diagonal()
    off = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum(), off_diagonal * off


def standardised(z: Tensor, eps: float = 1e-5) -> Tensor:
    """bn(z): each dimension of (N, D) at mean 0 and (biased) variance 1."""
    z = z - z.mean(0)
    return z * torch.rsqrt(z.square().mean(0) + eps)


class BarlowTwins(PairMethod):
    """Encoder and three-layer projector.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        off_diagonal: lambda, 0 = from the dimension.
        scale: of the whole loss.
    """

    min_batch = 4

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 256,
        off_diagonal: float = 0.0,
        scale: float = 0.1,
    ) -> None:
        super().__init__(
            encoder, mlp([width(encoder), hidden, hidden, projection], output_bias=False)
        )
        self.off_diagonal = off_diagonal or min(0.05, 0.005 * 2048 / projection)
        self.scale = scale

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Both terms."""
        on, off = barlow_loss(one, two, self.off_diagonal)
        return self.scale * (on + off), {"on_diagonal": on, "off_diagonal": off}


PART = BarlowTwins
