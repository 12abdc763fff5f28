"""Alignment and uniformity as a loss (Wang and Isola 2020, ICML).

    L = E |n(z1) - n(z2)|^alpha + weight * mean over views of log mean_{i<j} exp(-t |n(z_i) -
    n(z_j)|^2)

(methods/README.md 4.1). alpha = 2, t = 2, weight 1. Both figures are diagnostics, too; the uniformity of a
high-dimensional embedding does not notice that some dimensions are lost.
"""

from __future__ import annotations

from torch import Tensor, nn

from speechssl.diagnostics.alignment import alignment
from speechssl.diagnostics.uniformity import uniformity
from speechssl.interfaces import Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, width


class AlignUniform(PairMethod):
    """Encoder and projector.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        alpha: exponent of the alignment.
        t: sharpness of the uniformity.
        weight: of the uniformity.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 64,
        alpha: float = 2.0,
        t: float = 2.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, mlp([width(encoder), hidden, projection]))
        self.alpha, self.t, self.weight = alpha, t, weight

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Both terms."""
        near = alignment(one, two, self.alpha)
        spread = (uniformity(one, self.t) + uniformity(two, self.t)) / 2
        return near + self.weight * spread, {"alignment": near, "uniformity": spread}


PART = AlignUniform
