"""DirectCopy: the predictor is the correlation itself, W = F + epsilon I.

Wang, Chen, Du and Tian 2021 (arXiv 2110.04947); methods/README.md 2.5. As released, F is
not normalised; ``norm`` divides it.
"""

from __future__ import annotations

from typing import Literal

from speechssl.predictors.directset import DirectSet


class DirectCopy(DirectSet):
    """DirectSet with alpha = 1, which needs no eigen-decomposition.

    Args:
        dim: D, size of a projection.
        momentum: rho, the weight of the old correlation.
        epsilon: weight of the identity that is added.
        norm: `none`, as released, or what F is divided by: its `spectral` norm (largest
            eigenvalue), or its `frobenius` norm.
        frequency: set W after every so many steps.
    """

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 0.3,
        norm: Literal["spectral", "frobenius", "none"] = "none",
        frequency: int = 1,
    ) -> None:
        super().__init__(
            dim,
            alpha=1.0,
            momentum=momentum,
            epsilon=epsilon,
            norm=norm,
            frequency=frequency,
        )


PART = DirectCopy
