"""UniGrad: the gradient that contrastive, asymmetric and decorrelating methods share (Tao et al.
    2022, CVPR).

With z of unit length, t the moving average's, and F the moving average of E[t tᵀ] over the views,

    L = -z_v . t_u + (lambda / 2) z_vᵀ F z_v,   dL/dz = -t + lambda F z          (methods/README.md 4.5)

averaged over pairs u != v. The published lambda is 100 at 2,048 dimensions with momentum 0.99 of F;
here it is 0.05 D unless given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.nn.correlation import Correlation
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import cosine_schedule, ema_update, teacher_of
from speechssl.nn.siamese import network, ordered_pairs, project, width
from speechssl.nn.views import in_float32


def unigrad_loss(z: Tensor, target: Tensor, correlation: Tensor, weight: float) -> Tensor:
    """Mean over N of -z.t + weight/2 zᵀ F z, for unit z, t (N, D) and F (D, D) without gradient."""
    return (0.5 * weight * (z @ correlation * z).sum(-1) - (z * target).sum(-1)).mean()


class UniGrad(Method):
    """Encoder and projector, and their moving averages.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        weight: lambda, 0 = 0.05 D.
        correlation_momentum: of F.
        teacher_momentum, teacher_momentum_end: by half a cosine.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        weight: float = 0.0,
        correlation_momentum: float = 0.99,
        teacher_momentum: float = 0.99,
        teacher_momentum_end: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = network(encoder, mlp([width(encoder), hidden, projection], output_norm=True))
        self.teacher = teacher_of(self.net)
        self.correlation = Correlation(projection, correlation_momentum)
        self.weight = weight or 0.05 * projection
        self.momentum = (teacher_momentum, teacher_momentum_end)

    @property
    def encoder(self) -> nn.Module:
        """The moving average."""
        return self.teacher["encoder"]

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss on one batch."""
        online = project(self.net, views)
        with torch.no_grad():
            target = project(self.teacher, views, long_only=True)
        with in_float32(online.z):
            z, t = F.normalize(online.z, dim=-1), F.normalize(target.z, dim=-1)
            if self.training:
                self.correlation.update(gather_without_gradient(t).flatten(0, 1))
            f = self.correlation.value.clone()
            terms = [
                unigrad_loss(z[v], t[u], f, self.weight) for u, v in ordered_pairs(len(t), len(z))
            ]
            loss = torch.stack(terms).mean()
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def after_step(self, progress: Progress) -> None:
        """Move the target network."""
        ema_update(self.teacher, self.net, cosine_schedule(*self.momentum, progress.fraction))


PART = UniGrad
