"""A linear predictor that starts as the identity and trains its off-diagonal entries only.

Wen and Li 2022 (arXiv 2205.06226); methods/README.md 2.6.

    p = (I + A) z    with diag(A) = 0 always and A = 0 at the start

Strong features of one neuron stand in for those of another through A, and weak ones
then grow: that is enough against collapse. The first step's loss is that without
predictor. Learning rate and weight decay of A are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import ParameterRule, Predictor


class OffDiagonal(Predictor):
    """The matrix I + A (D, D).

    Args:
        dim: D, size of a projection.
        lr_scale: learning rate of A over the encoder's (1 to 10).
        decay: weight decay on A, too.
    """

    def __init__(self, dim: int, *, lr_scale: float = 1.0, decay: bool = False) -> None:
        super().__init__()
        self.offdiagonal = nn.Parameter(torch.zeros(dim, dim))
        self.lr_scale = lr_scale
        self.decay = decay

    def forward(self, z: Tensor) -> Tensor:
        """Return z + A z, (N, D).

        The diagonal is subtracted from A in the graph, so its gradient is exactly zero.
        """
        a = self.offdiagonal - torch.diag(self.offdiagonal.diagonal())
        return z + z @ a.T

    def rule(self) -> ParameterRule:
        """Return A's learning rate and weight decay."""
        return ParameterRule([self.offdiagonal], scale=self.lr_scale, decay=self.decay)


PART = OffDiagonal
