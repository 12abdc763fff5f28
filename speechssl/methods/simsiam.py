"""SimSiam: predict one view from the other, whose gradient is stopped (Chen and He 2021, CVPR).

    L = -mean over pairs u != v of cos(h(z_v), sg z_u)          (methods/README.md 2.2)

h is any of ``predictors/``. Without one, or without the stop-gradient, the embedding
collapses; after the projector's last BatchNorm, which has no weights, only the rank
shows it. With crops of several lengths the long ones are the targets. The projector has
three layers, as released; the released predictor's learning rate does not decay
(``predictor.constant_lr``). ``gsg`` switches to guided stop-gradient, which has its own
rule for which view is the target (losses/guided_stop_gradient.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from speechssl import parts
from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import (
    Encoder,
    Method,
    Output,
    ParameterRule,
    Predictor,
    Progress,
    Views,
)
from speechssl.losses.guided_stop_gradient import guided
from speechssl.nn.mlp import mlp
from speechssl.nn.precision import in_float32
from speechssl.nn.siamese import Network, Projected, ordered_pairs, project


def predictive_loss(z: Tensor, targets: Tensor, predictor: Predictor) -> Tensor:
    """Return minus the mean cosine between predictions and targets, in [-1, 1].

    Args:
        z: (V, B, P) online projections, the long views first.
        targets: (U, B, P) of the first U views, detached.
        predictor: h.
    """
    predictions = [predictor(view) for view in z]
    cosines = []
    for u, v in ordered_pairs(len(targets), len(z)):
        cosines.append(predictor.cosine(z[v], predictions[v], targets[u]).mean())
    return -torch.stack(cosines).mean()


class SimSiam(Method):
    """Encoder, projector and predictor.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        output_norm: BatchNorm (without weights) after the projector, as released.
        predictor: one of ``predictors/``: a name, or ``{name: mlp, hidden: 32}``.
        gsg: guided stop-gradient with 4 or 2 long views, 0 = off.
    """

    PARTS: ClassVar[dict[str, str]] = {"predictor": "predictors"}
    HIDDEN_LAYERS: ClassVar[int] = 2
    """Hidden layers of the projector."""

    min_batch = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        output_norm: bool = True,
        predictor: Any = "mlp",
        gsg: Literal[0, 2, 4] = 0,
    ) -> None:
        super().__init__()
        sizes = [encoder.embedding_dim, *[hidden] * self.HIDDEN_LAYERS, projection]
        self.net = Network(encoder, mlp(sizes, output_norm=output_norm))
        self.predictor: Predictor = parts.build("predictors", predictor, projection)
        self.gsg = gsg

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained."""
        return self.net.encoder

    def target(self, views: Sequence[Views], online: Projected) -> Projected:
        """Return this network's own projections of the long views, without gradient."""
        long = online.long
        return Projected(online.embeddings[:long], online.z[:long].detach(), long)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Map the mean negative cosine to the paper's scale: here it is the loss itself."""
        return loss

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch."""
        online = project(self.net, views)
        target = self.target(views, online)
        with in_float32(online.z):
            long_views = online.z[: online.long]
            if self.training:
                self.predictor.observe(gather_without_gradient(long_views).flatten(0, 1))
            if self.gsg:
                negative_cosine = guided(long_views, target.z, self.predictor, self.gsg)
            else:
                negative_cosine = predictive_loss(online.z, target.z, self.predictor)
            loss = self.scale_loss(negative_cosine)
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def after_step(self, progress: Progress) -> None:
        """Set the predictor, if it is one in closed form."""
        self.predictor.after_step(progress.step)

    def parameter_rules(self) -> list[ParameterRule]:
        """Return the rule of the predictor, if it has one."""
        rule = self.predictor.rule()
        return [rule] if rule else []


PART = SimSiam
