"""Prediction without stop-gradient; decorrelation prevents the collapse.

Inspired by Liu, Suganuma and Okatani 2022 (NeurIPS). They say that stop-gradient and
predictor together impose a constraint that decorrelates features, and they replace the
stop-gradient by it; the constraint itself could not be read. The loss here is derived
in methods/README.md 4.6: with a linear predictor W and second moments held at the
identity, the best prediction has maximally predictable, decorrelated features:

    L = 1/2 mean over both directions of E |W z1 - z2|^2
        + weight * mean over views of |Cov(z) - I|_F^2

with gradient to both sides. weight = 0 collapses.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from speechssl import parts
from speechssl.interfaces import Encoder, ParameterRule, Predictor, Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


def decorrelation(z: Tensor) -> Tensor:
    """Return |Cov(z) - I|_F^2 of z (N, D), with the unbiased covariance."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    return (covariance - torch.eye(len(covariance), device=z.device)).square().sum()


class SgFreeDecorr(PairMethod):
    """Encoder, projector and predictor, no stop-gradient.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        predictor: one of ``predictors/``, linear in the derivation.
        weight: mu, of the decorrelation.
    """

    PARTS: ClassVar[dict[str, str]] = {"predictor": "predictors"}
    min_batch = 4

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 64,
        predictor: Any = "linear",
        weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, mlp([encoder.embedding_dim, hidden, projection]))
        self.predictor: Predictor = parts.build("predictors", predictor, projection)
        self.weight = weight

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and both terms of two views (N, P)."""
        if self.training:
            self.predictor.observe(torch.cat([one, two]).detach())
        forwards = (self.predictor(one) - two).square().sum(-1)
        backwards = (self.predictor(two) - one).square().sum(-1)
        error = (forwards + backwards).mean() / 4
        spread = (decorrelation(one) + decorrelation(two)) / 2
        return error + self.weight * spread, {"error": error, "decorrelation": spread}

    def after_step(self, progress: Progress) -> None:
        """Set the predictor, if it is one in closed form."""
        self.predictor.after_step(progress.step)

    def parameter_rules(self) -> list[ParameterRule]:
        """Return the rule of the predictor, if it has one."""
        rule = self.predictor.rule()
        return [rule] if rule else []


PART = SgFreeDecorr
