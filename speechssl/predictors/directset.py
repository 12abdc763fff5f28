"""DirectSet(alpha): a linear predictor that is a power of the correlation.

Wang, Chen, Du and Tian 2021.

    W = F^alpha / ||F^alpha|| + epsilon I        (methods/README.md 2.5)

alpha = 1/2 is close to DirectPred and alpha = 1 is DirectCopy. The normalisation is from memory of
the paper; the released program has none. The eigen-decomposition is needed for alpha other than 1
only.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from speechssl.nn.closed_form import ClosedForm


class DirectSet(ClosedForm):
    """The power of the correlation.

    Args:
        alpha: the exponent.
        momentum: rho, the weight of the old correlation.
        epsilon: of the identity that is added.
        norm: ``spectral`` (largest eigenvalue), ``frobenius`` or ``none``.
        frequency: W is set after every so many steps.
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
        self.alpha, self.epsilon, self.norm = alpha, epsilon, norm

    def weights(self) -> Tensor:
        """F^alpha, normalised, plus epsilon I."""
        power = self.correlation.value
        if self.alpha != 1.0:
            s, u = self.correlation.spectrum()
            power = u @ (s.clamp(min=0).pow(self.alpha)[:, None] * u.T)
        if self.norm != "none":
            size = torch.linalg.matrix_norm(power, 2 if self.norm == "spectral" else "fro")
            power = power / size.clamp(min=1e-30)
        return power + self.epsilon * torch.eye(len(power), device=power.device)


PART = DirectSet
