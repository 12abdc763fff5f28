"""UniGrad: the gradient that contrastive, asymmetric and decorrelating methods share.

Tao et al. 2022 (CVPR). With z of unit length, t the moving average's, and F the moving
average of E[t tᵀ] over the views,

    L = -z_v . t_u + (lambda / 2) z_vᵀ F z_v,   dL/dz = -t + lambda F z   (methods/README.md 4.5)

averaged over pairs u != v. The published lambda is 100 at 2,048 dimensions with
momentum 0.99 of F; here it is 0.05 D unless given. The released program logs a value
with lambda in place of lambda / 2; the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Encoder, Output, Progress, Views
from speechssl.nn.correlation import Correlation
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.precision import in_float32
from speechssl.nn.schedules import cosine_schedule
from speechssl.nn.siamese import Network, TeacherMethod, ordered_pairs, project


def unigrad_loss(z: Tensor, target: Tensor, correlation: Tensor, lambd: float) -> Tensor:
    """Return the mean over N of -z.t + lambda/2 zᵀ F z.

    Args:
        z: (N, D) of unit length.
        target: (N, D) of unit length, without gradient.
        correlation: F, (D, D), without gradient.
        lambd: lambda.
    """
    quadratic = (z @ correlation * z).sum(-1)
    return (0.5 * lambd * quadratic - (z * target).sum(-1)).mean()


class UniGrad(TeacherMethod):
    """Encoder and projector, and their moving averages.

    Args:
        encoder: the student's; the teacher is a copy of it.
        hidden, projection: sizes of the projector's layers.
        lambd: weight lambda of the quadratic term, 0 = 0.05 D.
        correlation_momentum: weight of the old F in its moving average.
        teacher_momentum, teacher_momentum_end: by half a cosine.
    """

    RENAMED: ClassVar[dict[str, str]] = {"weight": "lambd"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        lambd: float = 0.0,
        correlation_momentum: float = 0.99,
        teacher_momentum: float = 0.99,
        teacher_momentum_end: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = [encoder.embedding_dim, hidden, projection]
        self.net = Network(encoder, mlp(sizes, output_norm=True))
        self.teacher = teacher_of(self.net)
        self.correlation = Correlation(projection, correlation_momentum)
        self.lambd = lambd or 0.05 * projection
        self.teacher_momentum = teacher_momentum
        self.teacher_momentum_end = teacher_momentum_end

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch; F takes in the batch first."""
        online = project(self.net, views)
        with torch.no_grad():
            target = project(self.teacher, views, long_only=True)
        with in_float32(online.z):
            z = F.normalize(online.z, dim=-1)
            t = F.normalize(target.z, dim=-1)
            if self.training:
                self.correlation.update(gather_without_gradient(t).flatten(0, 1))
            correlation = self.correlation.value.clone()
            terms = []
            for u, v in ordered_pairs(len(t), len(z)):
                terms.append(unigrad_loss(z[v], t[u], correlation, self.lambd))
            loss = torch.stack(terms).mean()
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        momentum = cosine_schedule(
            self.teacher_momentum, self.teacher_momentum_end, progress.fraction
        )
        ema_update(self.teacher, self.net, momentum)


PART = UniGrad
