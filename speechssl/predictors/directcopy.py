"""DirectCopy: the predictor is the correlation itself, W = F / ||F|| + epsilon I (Wang et al.
2021).
"""

from __future__ import annotations

from typing import Literal

from speechssl.predictors.directset import DirectSet


class DirectCopy(DirectSet):
    """DirectSet with alpha = 1: no eigen-decomposition.

    Args:
        momentum, epsilon, norm, frequency: as in DirectSet.
    """

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 0.3,
        norm: Literal["spectral", "frobenius", "none"] = "spectral",
        frequency: int = 1,
    ) -> None:
        super().__init__(
            dim, alpha=1.0, momentum=momentum, epsilon=epsilon, norm=norm, frequency=frequency
        )


PART = DirectCopy
