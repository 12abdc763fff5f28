"""SimSiam: predict one view from the other, whose gradient is stopped (Chen and He 2021, CVPR).

    L = -mean over pairs u != v of cos(h(z_v), sg z_u)          (methods/README.md 2.2)

h is any of ``predictors/``. Without one, or without the stop-gradient, the embedding collapses;
after the projector's last BatchNorm, which has no weights, only the rank shows it. With crops of
several lengths the long ones are the targets. Projector of three layers as released; the released
predictor's learning rate does not decay (``predictor.constant_lr``). ``gsg`` switches to guided
stop-gradient (see ``_gsg.py``), which is a rule of its own for which view is the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechssl import parts
from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Method, Output, ParameterRule, Predictor, Progress, Views
from speechssl.losses.guided_stop_gradient import guided
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import Projected, network, ordered_pairs, project, width
from speechssl.nn.views import in_float32


def predictive_loss(z: Tensor, targets: Tensor, predictor: Predictor) -> Tensor:
    """Minus the mean cosine between predictions and targets, in [-1, 1].

    Args:
        z: (V, B, P) online projections, the long views first.
        targets: (U, B, P) of the first U views, detached.
    """
    predictions = [predictor(view) for view in z]
    cosines = [
        predictor.cosine(z[v], predictions[v], targets[u]).mean()
        for u, v in ordered_pairs(len(targets), len(z))
    ]
    return -torch.stack(cosines).mean()


class SimSiam(Method):
    """Encoder, projector and predictor.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        output_norm: BatchNorm (without weights) after the projector, as released.
        predictor: one of ``predictors/``: a name, or ``{name: mlp, hidden: 32}``.
        gsg: guided stop-gradient with 4 or 2 long views, 0 = off.
    """

    PARTS: ClassVar[dict[str, str]] = {"predictor": "predictors"}
    min_batch = 2

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        output_norm: bool = True,
        predictor: Any = "mlp",
        gsg: Literal[0, 2, 4] = 0,
    ) -> None:
        super().__init__()
        sizes = [width(encoder), hidden, hidden, projection]
        self.net = network(encoder, mlp(sizes, output_norm=output_norm))
        self.predictor: Predictor = parts.build("predictors", predictor, projection)
        self.gsg = gsg

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is trained."""
        return self.net["encoder"]

    def target(self, views: Sequence[Views], online: Projected) -> Projected:
        """This network's own projections of the long views, without gradient."""
        return Projected(
            online.embeddings[: online.long], online.z[: online.long].detach(), online.long
        )

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss on one batch."""
        online = project(self.net, views)
        target, z = self.target(views, online), online.z
        with in_float32(z):
            if self.training:
                self.predictor.observe(gather_without_gradient(z[: online.long]).flatten(0, 1))
            if self.gsg:
                loss = guided(z[: online.long], target.z, self.predictor, self.gsg)
            else:
                loss = predictive_loss(z, target.z, self.predictor)
            loss = self.convention(loss)
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), z)

    def convention(self, loss: Tensor) -> Tensor:
        """Minus the cosine as it is."""
        return loss

    def after_step(self, progress: Progress) -> None:
        """Predictors in closed form are set here."""
        self.predictor.after_step(progress.step)

    def parameter_rules(self) -> list[ParameterRule]:
        """The predictor's own learning rate, where it has one."""
        rule = self.predictor.rule()
        return [rule] if rule else []


PART = SimSiam
