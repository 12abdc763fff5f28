"""The centre-vector objective: agree, and keep the mean of all embeddings at the origin.

Inspired by Jha, Blaschko, Asano and Tuytelaars 2024 (arXiv 2402.14957), of which the abstract was
read: all methods, it says, keep |E_x s_x| small while |s_x| stays large. Ours (methods/README.md 4.3):

    L = -cos(z1, z2) + weight |s|^2,   s = momentum * (moving average) + (1 - momentum) * mean n(z)

where the gradient flows through the mean of this batch only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_with_gradient
from speechssl.interfaces import Output, Progress, Views
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, project, unordered_pairs, width
from speechssl.nn.views import in_float32


class CentreVector(PairMethod):
    """Encoder and projector.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        weight: of the squared centre norm.
        momentum: of the moving average in the centre.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        weight: float = 3.0,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(encoder, mlp([width(encoder), hidden, projection]))
        self.weight, self.momentum = weight, momentum
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(projection))

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss over all pairs of views and one centre of all of them."""
        embeddings, z, long = project(self.net, views)
        with in_float32(z):
            n = F.normalize(gather_with_gradient(z), dim=-1)
            cosines = [(n[u] * n[v]).sum(-1).mean() for u, v in unordered_pairs(long, len(n))]
            agreement = torch.stack(cosines).mean()
            centre = self.momentum * self.centre + (1 - self.momentum) * n.mean((0, 1))
            if self.training:
                self.centre.copy_(centre.detach())
            energy = centre.square().sum()
            loss = self.weight * energy - agreement
        scalars = {"agreement": agreement.detach(), "centre": energy.detach().sqrt()}
        return Output(loss, scalars, embeddings[:long].flatten(0, 1).detach(), z)


PART = CentreVector
