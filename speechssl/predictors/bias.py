"""A bias and nothing else, p = z + b: it can only undo a common mean.

Zhang et al. 2022; methods/README.md 2.3.

Reported as enough against collapse; read in an abstract only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import Predictor


class Bias(Predictor):
    """A vector b (D,) that is learnt, zero at the start.

    Args:
        dim: D, size of a projection.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        """Return z + b, (N, D)."""
        return z + self.bias


PART = Bias
