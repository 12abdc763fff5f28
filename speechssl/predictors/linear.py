"""A linear predictor trained by gradient, p = W z without bias or BatchNorm.

Tian, Chen and Ganguli 2021 (arXiv 2102.06810); methods/README.md 2.3, 2.7.
"""

from __future__ import annotations

from torch import Tensor, nn

from speechssl.interfaces import Predictor


class Linear(Predictor):
    """One matrix W (D, D). Weight decay on it is what balances it with the encoder.

    Args:
        dim: D, size of a projection.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return W z, (N, D)."""
        predictions: Tensor = self.layer(z)
        return predictions


PART = Linear
