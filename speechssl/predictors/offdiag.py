"""A linear predictor that starts as the identity and trains its off-diagonal entries only.

Wen and Li 2022.

    p = (I + A) z with diag(A) = 0 always and A = 0 at the start       (methods/README.md 2.6)

Strong features of one neuron stand in for those of another through A, and weak ones then grow: that
is enough against collapse. The first step's loss is that without predictor. Learning rate and
weight decay of A are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import ParameterRule, Predictor


class OffDiagonal(Predictor):
    """I + A.

    Args:
        lr_scale: learning rate of A over the encoder's (1 to 10).
        decay: weight decay on A, too.
    """

    def __init__(self, dim: int, *, lr_scale: float = 1.0, decay: bool = False) -> None:
        super().__init__()
        self.offdiagonal = nn.Parameter(torch.zeros(dim, dim))
        self.lr_scale, self.decay = lr_scale, decay

    def forward(self, z: Tensor) -> Tensor:
        """z + A z; the diagonal is taken off A in the graph, so its gradient is exactly zero."""
        a = self.offdiagonal - torch.diag(self.offdiagonal.diagonal())
        return z + z @ a.T

    def rule(self) -> ParameterRule:
        """A's learning rate and weight decay."""
        return ParameterRule([self.offdiagonal], scale=self.lr_scale, decay=self.decay)


PART = OffDiagonal
