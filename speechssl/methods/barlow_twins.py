"""Barlow Twins: make the cross-correlation of two views the identity (Zbontar et al. 2021, ICML).

With C = bn(z1)ᵀ bn(z2) / B (methods/README.md 5.1):

    L = scale * [sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2]

Both branches get gradient. lambda is 0.0051 at 8,192 dimensions in the paper; by
default it is set from the dimension, 0.005 * 2048 / D and at most 0.05. The released
programs multiply the loss by 0.025 to 0.1, and their learning rates go with that
factor; here it is 0.1. D should be at most four times the batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from speechssl.interfaces import Encoder, Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


def barlow_loss(one: Tensor, two: Tensor, lambd: float) -> tuple[Tensor, Tensor]:
    """Return the term on the diagonal and ``lambd`` times the one off it, for views (N, D) each.

    A dimension without variance has only correlations of 0, so it adds 1 to the first
    term.
    """
    correlation = standardised(one).T @ standardised(two) / len(one)
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum(), lambd * off_diagonal


def standardised(z: Tensor, eps: float = 1e-5) -> Tensor:
    """Return bn(z): each dimension of z (N, D) at mean 0 and (biased) variance 1."""
    z = z - z.mean(0)
    return z * torch.rsqrt(z.square().mean(0) + eps)


class BarlowTwins(PairMethod):
    """Encoder and three-layer projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        lambd: weight lambda of the term off the diagonal, 0 = from the dimension.
        scale: of the whole loss.
    """

    RENAMED: ClassVar[dict[str, str]] = {"off_diagonal": "lambd"}
    min_batch = 4

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 256,
        lambd: float = 0.0,
        scale: float = 0.1,
    ) -> None:
        sizes = [encoder.embedding_dim, hidden, hidden, projection]
        super().__init__(encoder, mlp(sizes, output_bias=False))
        self.lambd = lambd or min(0.05, 0.005 * 2048 / projection)
        self.scale = scale

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and both terms of two views (N, P)."""
        on_diagonal, off_diagonal = barlow_loss(one, two, self.lambd)
        loss = self.scale * (on_diagonal + off_diagonal)
        return loss, {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal}


PART = BarlowTwins
