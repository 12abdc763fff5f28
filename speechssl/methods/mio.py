"""MIO: tell pairs of one utterance from all other pairs, one by one (Manna et al. 2021).

Binary contrastive mutual information (arXiv 2111.12664): with c the cosines between the
2B projections of a batch, and classes of equal weight (methods/README.md 6.5),

    L = mean over positive pairs of softplus(-c / tau_p)
        + mean over negative pairs of softplus(c / tau_n)
        + mse_weight * mean (n(z1) - n(z2))^2

The 2B positive entries are (i, i + B) and (i + B, i), the 2B (2B - 2) negative ones all
others off the diagonal. There is no partition function, so the scale of the loss does
not depend on the batch. This is the released loss; the paper's later versions, which
bound the repulsion of negatives, could not be read. The released program has tau .5
twice, mse_weight 1 (its training script: 0) and a projector of 2,048 and 128 with
BatchNorm after each layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.interfaces import Encoder, Progress
from speechssl.nn.groups import same_group
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


def mio_terms(
    one: Tensor,
    two: Tensor,
    tau_p: float = 0.5,
    tau_n: float = 0.5,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the terms of the positive pairs, of the negative pairs, and the squared distance.

    Args:
        one: (B, P) projections of one view; normalised here.
        two: (B, P) of the other view.
        tau_p: temperature of the positive pairs.
        tau_n: temperature of the negative pairs.
        groups: (B,) int64; two utterances of one group are no negative pair (-1: none).
    """
    count = len(one)
    one = F.normalize(one, dim=-1)
    two = F.normalize(two, dim=-1)
    both = torch.cat([one, two])
    cosines = both @ both.T
    utterance = torch.arange(count, device=both.device).repeat(2)
    is_negative = utterance[:, None] != utterance
    if groups is not None:
        doubled = groups.repeat(2)
        is_negative = is_negative & ~same_group(doubled, doubled)
    positive = F.softplus(-(one * two).sum(-1) / tau_p).mean()
    repulsion = F.softplus(cosines / tau_n) * is_negative
    negative = repulsion.sum() / is_negative.sum().clamp(min=1)
    return positive, negative, F.mse_loss(one, two)


class MIO(PairMethod):
    """Encoder and projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        tau_p, tau_n: temperatures of the positive and the negative pairs.
        mse_weight: lambda, of the squared distance.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        tau_p: float = 0.5,
        tau_n: float = 0.5,
        mse_weight: float = 1.0,
    ) -> None:
        layers = mlp([encoder.embedding_dim, hidden, projection], output_bias=False)
        super().__init__(encoder, nn.Sequential(*layers, nn.BatchNorm1d(projection)))
        self.tau_p = tau_p
        self.tau_n = tau_n
        self.mse_weight = mse_weight

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of two views (N, P), and its terms."""
        return self.grouped_pair(one, two, None, progress)

    def grouped_pair(
        self, one: Tensor, two: Tensor, groups: Tensor | None, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of two views (N, P), without negatives of one group, and its terms."""
        positive, negative, distance = mio_terms(one, two, self.tau_p, self.tau_n, groups)
        loss = positive + negative + self.mse_weight * distance
        return loss, {"positive": positive, "negative": negative, "distance": distance}


PART = MIO
