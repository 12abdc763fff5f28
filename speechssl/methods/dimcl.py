"""DimCL: any method, with dimensional contrastive learning as a regulariser (Nguyen et al. 2023).

    L = (1 - weight) base_scale L_base + weight L_dim         (methods/README.md 5.5)

L_dim is NT-Xent over dimensions: the projections of two views are standardised over the
batch and transposed to 2 D vectors of length B; the same dimension of the other view is
the positive, all others are negatives. weight 0.1, temperature 0.1. A batch of B holds
at most B - 1 orthogonal dimensions, so D should not exceed B. For DINO the embedding
takes the place of the projection. The released program has BYOL's loss as the sum of
the two directions, from 0 to 8, where this package has their mean: ``base_scale`` makes
up for that.

    method={name: dimcl, base: {name: byol, predictor: mlp}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from speechssl.distributed import gather_with_gradient
from speechssl.interfaces import Encoder, Output, Progress, Views
from speechssl.methods.barlow_twins import standardised
from speechssl.methods.simclr import nt_xent
from speechssl.nn.around import AroundMethod
from speechssl.nn.precision import in_float32
from speechssl.nn.siamese import unordered_pairs


def dimension_contrast(one: Tensor, two: Tensor, temperature: float = 0.1) -> Tensor:
    """Return NT-Xent over the dimensions of two views (N, D).

    A dimension without variance is a vector of zeros.
    """
    dimensions = torch.stack([standardised(one).T, standardised(two).T])
    return nt_xent(dimensions, temperature)


SUMMED = ("byol", "moco_v3")
"""Methods whose programs sum the two directions of a pair; here they are averaged."""


class DimCL(AroundMethod):
    """A base method and the regulariser.

    All hooks of the base method are called; its encoder is the one that users get.

    Args:
        encoder: the encoder to train.
        base: the base method, a name or a section of its own.
        weight: lambda, 0 to 1.
        temperature: tau, which divides the cosines.
        base_scale: factor of the base's loss; 0 = what its program has: 2 where it sums
            the two directions and this package takes their mean (`SUMMED`), else 1.

    Raises:
        UserError: the base method learns pseudo-labels.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Any = "byol",
        weight: float = 0.1,
        temperature: float = 0.1,
        base_scale: float = 0.0,
    ) -> None:
        super().__init__(encoder, base, "dimcl")
        self.weight = weight
        self.base_scale = base_scale or _released_scale(base)
        self.temperature = temperature
        self.min_batch = max(4, self.base.min_batch)

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the weighted sum of both losses; the regulariser needs one long view in a pair."""
        output: Output = self.base(views, progress)
        with in_float32(output.projections):
            z = gather_with_gradient(output.projections.float())
            terms = []
            for u, v in unordered_pairs(len(views[0].features), len(z)):
                terms.append(dimension_contrast(z[u], z[v], self.temperature))
            regulariser = torch.stack(terms).mean()
            base_loss = self.base_scale * output.loss
            loss = (1 - self.weight) * base_loss + self.weight * regulariser
        scalars = dict(output.scalars)
        scalars["base"] = output.loss.detach()
        scalars["dimcl"] = regulariser.detach()
        return output._replace(loss=loss, scalars=scalars)


def _released_scale(base: Any) -> float:
    """Return the factor from this package's loss of a base method to its program's.

    Args:
        base: name or section of the method.
    """
    name = base if isinstance(base, str) else base["name"]
    return 2.0 if name in SUMMED else 1.0


PART = DimCL
