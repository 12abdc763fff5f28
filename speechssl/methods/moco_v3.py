"""MoCo v3: no queue, a predictor on the query, negatives from the batch.

Chen, Xie and He 2021 (ICCV); methods/README.md 6.3.

    L = 2 tau * mean over pairs u != v of CE over the batch of (n(h(z_v)) . n(t_u) / tau)

where t is the moving average's projection and every other utterance of the (joined)
batch is a negative. The release sums the two directions; here it is their mean, half
of its loss and gradient. tau is 1.0 in the released program and 0.2 here, momentum 0.99
rising to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl import parts
from speechssl.distributed import gather_without_gradient, rank
from speechssl.interfaces import (
    Encoder,
    Output,
    ParameterRule,
    Predictor,
    Progress,
    Views,
)
from speechssl.nn.groups import joined_groups, same_group
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.precision import in_float32
from speechssl.nn.schedules import cosine_schedule
from speechssl.nn.siamese import Network, TeacherMethod, ordered_pairs, project


def batch_contrast(
    query: Tensor,
    keys: Tensor,
    temperature: float,
    first: int = 0,
    groups: Tensor | None = None,
) -> Tensor:
    """Return 2 tau times the cross-entropy of each query with its own key.

    Args:
        query: (B, P) of unit length.
        keys: (N, P) of unit length, without gradient.
        temperature: tau, which divides the cosines.
        first: row of ``keys`` that belongs to the first query.
        groups: (N,) int64, or None; keys of a query's own group are no negatives of it
            (-1: of no group).
    """
    labels = torch.arange(len(query), device=query.device) + first
    logits = query @ keys.T / temperature
    if groups is not None:
        is_own = labels[:, None] == torch.arange(len(keys), device=keys.device)
        is_of_group = same_group(groups[first : first + len(query)], groups)
        logits = logits.masked_fill(is_of_group & ~is_own, torch.finfo(logits.dtype).min)
    return 2 * temperature * F.cross_entropy(logits, labels)


class MoCoV3(TeacherMethod):
    """Encoder, projector and predictor, and the moving average of the first two.

    Args:
        encoder: the student's; the teacher, which makes the keys, is a copy of it.
        hidden, projection: sizes of the projector's layers.
        predictor: one of ``predictors/``.
        temperature: tau, which divides the cosines.
        teacher_momentum, teacher_momentum_end: by half a cosine.
    """

    PARTS: ClassVar[dict[str, str]] = {"predictor": "predictors"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        predictor: Any = "mlp",
        temperature: float = 0.2,
        teacher_momentum: float = 0.99,
        teacher_momentum_end: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = [encoder.embedding_dim, hidden, projection]
        self.net = Network(encoder, mlp(sizes, output_norm=True))
        self.teacher = teacher_of(self.net)
        self.predictor: Predictor = parts.build("predictors", predictor, projection)
        self.temperature = temperature
        self.teacher_momentum = teacher_momentum
        self.teacher_momentum_end = teacher_momentum_end

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch."""
        online = project(self.net, views)
        with torch.no_grad():
            target = project(self.teacher, views, long_only=True)
        with in_float32(online.z):
            if self.training:
                long_views = gather_without_gradient(online.z[: online.long])
                self.predictor.observe(long_views.flatten(0, 1))
            predictions = torch.stack([self.predictor(view) for view in online.z])
            queries = F.normalize(predictions, dim=-1)
            keys = gather_without_gradient(F.normalize(target.z, dim=-1))
            first = rank() * queries.shape[1]
            groups = joined_groups(views[0])
            terms = []
            for u, v in ordered_pairs(len(keys), len(queries)):
                terms.append(batch_contrast(queries[v], keys[u], self.temperature, first, groups))
            loss = torch.stack(terms).mean()
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def after_step(self, progress: Progress) -> None:
        """Set the predictor, if it is one in closed form, then move the teacher."""
        self.predictor.after_step(progress.step)
        momentum = cosine_schedule(
            self.teacher_momentum, self.teacher_momentum_end, progress.fraction
        )
        ema_update(self.teacher, self.net, momentum)

    def parameter_rules(self) -> list[ParameterRule]:
        """Return the rule of the predictor, if it has one."""
        rule = self.predictor.rule()
        return [rule] if rule else []


PART = MoCoV3
