"""No predictor, p = z: with a stop-gradient alone SimSiam collapses.

That is what it is there to show (Chen and He 2021; methods/README.md 2.2, 2.8).
"""

from __future__ import annotations

from torch import Tensor

from speechssl.interfaces import Predictor


class NoPredictor(Predictor):
    """The identity.

    Args:
        dim: D, size of a projection; not used.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        """Return z."""
        return z


PART = NoPredictor
