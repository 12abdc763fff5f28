"""DimCL: any method, with dimensional contrastive learning as a regulariser (Nguyen et al. 2023).

    L = (1 - weight) L_base + weight L_dim         (methods/README.md 5.5)

L_dim is NT-Xent over dimensions: the projections of two views are standardised over the batch and
transposed to 2 D vectors of length B; the same dimension of the other view is the positive, all
others are negatives. weight 0.1, temperature 0.1. A batch of B holds at most B - 1 orthogonal
dimensions, so D should not exceed B. For DINO the embedding itself takes the place of the
projection.

    method={name: dimcl, base: {name: byol, predictor: mlp}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechssl import parts
from speechssl.distributed import gather_with_gradient
from speechssl.errors import UserError
from speechssl.interfaces import Method, Output, ParameterRule, Progress, Views
from speechssl.methods.barlow_twins import standardised
from speechssl.methods.simclr import nt_xent
from speechssl.nn.siamese import unordered_pairs
from speechssl.nn.views import in_float32


def dimension_contrast(one: Tensor, two: Tensor, temperature: float = 0.1) -> Tensor:
    """NT-Xent over the dimensions of two views (N, D); a dimension without variance is a zero
    vector.
    """
    dimensions = torch.stack([standardised(one).T, standardised(two).T])
    return nt_xent(dimensions, temperature)


class DimCL(Method):
    """A method and the regulariser.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        base: the method, a name or a section of its own.
        weight: lambda, 0 to 1.
        temperature: tau.

    Raises:
        UserError: a base that learns pseudo-labels.
    """

    PARTS: ClassVar[dict[str, str]] = {"base": "methods"}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        base: Any = "byol",
        weight: float = 0.1,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.base: Method = parts.build("methods", base, encoder)
        if self.base.NEEDS_LABELS:
            raise UserError(
                "dimcl: base: it needs two views, this one learns classes of one; take another"
            )
        self.weight, self.temperature = weight, temperature
        self.teacher_prototypes = self.base.teacher_prototypes
        self.min_batch = max(4, self.base.min_batch)

    @property
    def encoder(self) -> nn.Module:
        """The base method's."""
        return self.base.encoder

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks of the base method."""
        return self.base.networks()

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """The base method's."""
        self.base.prepare(utterances, labels)

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Both losses; the regulariser over pairs of views of which one is long."""
        output = self.base(views, progress)
        with in_float32(output.projections):
            z = gather_with_gradient(output.projections.float())
            pairs = unordered_pairs(len(views[0].features), len(z))
            term = torch.stack(
                [dimension_contrast(z[u], z[v], self.temperature) for u, v in pairs]
            ).mean()
            loss = (1 - self.weight) * output.loss + self.weight * term
        scalars = {**output.scalars, "base": output.loss.detach(), "dimcl": term.detach()}
        return output._replace(loss=loss, scalars=scalars)

    def after_backward(self, progress: Progress) -> None:
        """The base method's."""
        self.base.after_backward(progress)

    def after_step(self, progress: Progress) -> None:
        """The base method's."""
        self.base.after_step(progress)

    def parameter_rules(self) -> list[ParameterRule]:
        """The base method's."""
        return self.base.parameter_rules()


PART = DimCL
