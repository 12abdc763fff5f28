"""The centre-vector objective: agree, and keep the mean of all embeddings at the origin.

Inspired by Jha, Blaschko, Asano and Tuytelaars 2024 (arXiv 2402.14957). Only the
abstract was read; it says that all methods keep |E_x s_x| small while |s_x| stays
large. The loss here is (methods/README.md 4.3):

    L = -cos(z1, z2) + weight |s|^2,   s = momentum * (moving average) + (1 - momentum) * mean n(z)

where the gradient flows through the mean of this batch only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.distributed import gather_with_gradient
from speechssl.interfaces import Encoder, Output, Progress, Views
from speechssl.nn.mlp import mlp
from speechssl.nn.precision import in_float32
from speechssl.nn.siamese import PairMethod, project, unordered_pairs


class CentreVector(PairMethod):
    """Encoder and projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        weight: of the squared centre norm.
        momentum: of the moving average in the centre.
    """

    centre: Tensor
    """(P,) moving average of the mean projection at unit length."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        weight: float = 3.0,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(encoder, mlp([encoder.embedding_dim, hidden, projection]))
        self.weight = weight
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(projection))

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss over all pairs of views and one centre of all of them."""
        embeddings, z, long = project(self.net, views)
        with in_float32(z):
            unit = F.normalize(gather_with_gradient(z), dim=-1)
            cosines = []
            for u, v in unordered_pairs(long, len(unit)):
                cosines.append((unit[u] * unit[v]).sum(-1).mean())
            agreement = torch.stack(cosines).mean()
            batch_mean = unit.mean((0, 1))
            centre = self.momentum * self.centre + (1 - self.momentum) * batch_mean
            if self.training:
                self.centre.copy_(centre.detach())
            squared_norm = centre.square().sum()
            loss = self.weight * squared_norm - agreement
        scalars = {"agreement": agreement.detach(), "centre": squared_norm.detach().sqrt()}
        return Output(loss, scalars, embeddings[:long].flatten(0, 1).detach(), z)


PART = CentreVector
