"""DirectSet(alpha): a linear predictor that is a power of the correlation.

Wang, Chen, Du and Tian 2021 (arXiv 2110.04947); methods/README.md 2.5.

    W = F^alpha / ||F^alpha|| + epsilon I

alpha = 1/2 is close to DirectPred and alpha = 1 is DirectCopy. The normalisation is from memory of
the paper; the released program has none. The eigen-decomposition is needed for alpha other than 1
only.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from speechssl.predictors.closed_form import ClosedForm, spectral_map


class DirectSet(ClosedForm):
    """The power of the correlation.

    Args:
        dim: D, size of a projection.
        alpha: exponent of the correlation.
        momentum: rho, the weight of the old correlation.
        epsilon: weight of the identity that is added.
        norm: what F^alpha is divided by: its `spectral` norm (largest eigenvalue), its
            `frobenius` norm, or `none`.
        frequency: set W after every so many steps.
    """

    def __init__(
        self,
        dim: int,
        *,
        alpha: float = 0.5,
        momentum: float = 0.99,
        epsilon: float = 0.3,
        norm: Literal["spectral", "frobenius", "none"] = "spectral",
        frequency: int = 1,
    ) -> None:
        super().__init__(dim, momentum, frequency)
        self.alpha = alpha
        self.epsilon = epsilon
        self.norm = norm

    def weights(self) -> Tensor:
        """Return F^alpha, normalised, plus epsilon I."""
        power = self._power()
        if self.norm != "none":
            order: Literal[2, "fro"] = 2 if self.norm == "spectral" else "fro"
            size = torch.linalg.matrix_norm(power, order)
            power = power / size.clamp(min=1e-30)
        return power + self.epsilon * torch.eye(len(power), device=power.device)

    def _power(self) -> Tensor:
        """Return F^alpha."""
        if self.alpha == 1.0:
            return self.correlation.value
        eigenvalues, eigenvectors = self.correlation.spectrum()
        return spectral_map(eigenvalues.clamp(min=0).pow(self.alpha), eigenvectors)


PART = DirectSet
