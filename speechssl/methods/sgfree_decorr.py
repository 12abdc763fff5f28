"""Prediction without stop-gradient, held up by decorrelation.

Inspired by Liu, Suganuma and Okatani 2022 (NeurIPS), who say that stop-gradient and predictor
together impose a constraint that decorrelates features, and replace the stop-gradient by it; the
constraint itself was not readable. This is a derivation of ours (methods/README.md 4.6): with a linear
predictor W and second moments held at the identity, the best prediction has maximally predictable,
decorrelated features:

    L = 1/2 mean over both directions of E |W z1 - z2|^2 + weight * |Cov(z) - I|_F^2 (mean over
    views)

with gradient to both sides. weight = 0 collapses.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechssl import parts
from speechssl.interfaces import ParameterRule, Predictor, Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, width


def decorrelation(z: Tensor) -> Tensor:
    """|Cov(z) - I|_F^2 of (N, D), unbiased."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    return (covariance - torch.eye(len(covariance), device=z.device)).square().sum()


class SgFreeDecorr(PairMethod):
    """Encoder, projector and predictor, no stop-gradient.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        predictor: one of ``predictors/``, linear in the derivation.
        weight: mu, of the decorrelation.
    """

    PARTS: ClassVar[dict[str, str]] = {"predictor": "predictors"}
    min_batch = 4

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 64,
        predictor: Any = "linear",
        weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, mlp([width(encoder), hidden, projection]))
        self.predictor: Predictor = parts.build("predictors", predictor, projection)
        self.weight = weight

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Both terms; the closed-form predictors see these projections."""
        if self.training:
            self.predictor.observe(torch.cat([one, two]).detach())
        errors = (self.predictor(one) - two).square().sum(-1) + (
            self.predictor(two) - one
        ).square().sum(-1)
        spread = (decorrelation(one) + decorrelation(two)) / 2
        error = errors.mean() / 4
        return error + self.weight * spread, {"error": error, "decorrelation": spread}

    def after_step(self, progress: Progress) -> None:
        """Predictors in closed form are set here."""
        self.predictor.after_step(progress.step)

    def parameter_rules(self) -> list[ParameterRule]:
        """The predictor's own learning rate, where it has one."""
        rule = self.predictor.rule()
        return [rule] if rule else []


PART = SgFreeDecorr
