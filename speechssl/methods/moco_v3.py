"""MoCo v3: no queue, a predictor on the query, negatives from the batch.

Chen, Xie and He 2021 (ICCV).

    L = 2 tau * mean over pairs u != v of CE over the batch of (n(h(z_v)) . n(t_u) / tau)

methods/README.md 6.

where t is the moving average's projection and every other utterance of the (joined) batch is a
negative. tau is 1.0 in the released program and 0.2 here, momentum 0.99 rising to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl import parts
from speechssl.distributed import gather_without_gradient, rank
from speechssl.interfaces import Method, Output, ParameterRule, Predictor, Progress, Views
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import cosine_schedule, ema_update, teacher_of
from speechssl.nn.siamese import network, ordered_pairs, project, width
from speechssl.nn.views import in_float32


def batch_contrast(query: Tensor, keys: Tensor, temperature: float, first: int = 0) -> Tensor:
    """2 tau times the cross-entropy of each query (B, P) with its own among the keys (N, P), rows
    from ``first`` on; all of unit length, keys without gradient.
    """
    labels = torch.arange(len(query), device=query.device) + first
    return 2 * temperature * F.cross_entropy(query @ keys.T / temperature, labels)


class MoCoV3(Method):
    """Encoder, projector and predictor, and the moving average of the first two.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        predictor: one of ``predictors/``.
        temperature: tau.
        teacher_momentum, teacher_momentum_end: by half a cosine.
    """

    PARTS: ClassVar[dict[str, str]] = {"predictor": "predictors"}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        predictor: Any = "mlp",
        temperature: float = 0.2,
        teacher_momentum: float = 0.99,
        teacher_momentum_end: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = network(encoder, mlp([width(encoder), hidden, projection], output_norm=True))
        self.teacher = teacher_of(self.net)
        self.predictor: Predictor = parts.build("predictors", predictor, projection)
        self.temperature, self.momentum = temperature, (teacher_momentum, teacher_momentum_end)

    @property
    def encoder(self) -> nn.Module:
        """The moving average."""
        return self.teacher["encoder"]

    def networks(self) -> dict[str, nn.Module]:
        """Return the encoders of the trained network and of its moving average."""
        return {"student": self.net["encoder"], "teacher": self.teacher["encoder"]}

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss on one batch."""
        online = project(self.net, views)
        with torch.no_grad():
            target = project(self.teacher, views, long_only=True)
        with in_float32(online.z):
            if self.training:
                self.predictor.observe(
                    gather_without_gradient(online.z[: online.long]).flatten(0, 1)
                )
            queries = torch.stack([F.normalize(self.predictor(z), dim=-1) for z in online.z])
            keys = gather_without_gradient(F.normalize(target.z, dim=-1))
            first = rank() * queries.shape[1]
            terms = [
                batch_contrast(queries[v], keys[u], self.temperature, first)
                for u, v in ordered_pairs(len(keys), len(queries))
            ]
            loss = torch.stack(terms).mean()
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def after_step(self, progress: Progress) -> None:
        """Set a closed-form predictor, then move the keys' network."""
        self.predictor.after_step(progress.step)
        ema_update(self.teacher, self.net, cosine_schedule(*self.momentum, progress.fraction))

    def parameter_rules(self) -> list[ParameterRule]:
        """The predictor's own learning rate, where it has one."""
        rule = self.predictor.rule()
        return [rule] if rule else []


PART = MoCoV3
