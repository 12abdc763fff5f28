"""Alignment and uniformity as a loss (Wang and Isola 2020, ICML).

    L = E |n(z1) - n(z2)|^alpha
        + weight * mean over views of log mean_{i<j} exp(-t |n(z_i) - n(z_j)|^2)

(methods/README.md 4.1). alpha = 2, t = 2, weight 1. Both figures are diagnostics, too;
the uniformity of a high-dimensional embedding does not notice that some dimensions are
lost. Two utterances of one group (`Views.groups`) are not driven apart.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from speechssl.diagnostics.alignment import alignment
from speechssl.diagnostics.uniformity import uniformity
from speechssl.interfaces import Encoder, Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


class AlignUniform(PairMethod):
    """Encoder and projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        alpha: exponent of the alignment.
        t: sharpness of the uniformity.
        uniformity_weight: of the uniformity, where the alignment has 1.
    """

    RENAMED: ClassVar[dict[str, str]] = {"weight": "uniformity_weight"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 64,
        alpha: float = 2.0,
        t: float = 2.0,
        uniformity_weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, mlp([encoder.embedding_dim, hidden, projection]))
        self.alpha = alpha
        self.t = t
        self.uniformity_weight = uniformity_weight

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and both terms of two views (N, P)."""
        return self.grouped_pair(one, two, None, progress)

    def grouped_pair(
        self, one: Tensor, two: Tensor, groups: Tensor | None, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of two views (N, P), without repulsion in one group, and both terms."""
        distance = alignment(one, two, self.alpha)
        spread_one = uniformity(one, self.t, groups)
        spread_two = uniformity(two, self.t, groups)
        spread = (spread_one + spread_two) / 2
        loss = distance + self.uniformity_weight * spread
        return loss, {"alignment": distance, "uniformity": spread}


PART = AlignUniform
