"""A linear predictor trained by gradient, p = W z without bias or BatchNorm.

Tian, Chen and Ganguli 2021.
"""

from __future__ import annotations

from torch import Tensor, nn

from speechssl.interfaces import Predictor


class Linear(Predictor):
    """One matrix; weight decay on it is what balances it with the encoder (methods/README.md 2.7)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """W z."""
        return self.layer(z)


PART = Linear
