"""Root mean square of the correlations between different dimensions.

Barlow Twins, VICReg; methods/README.md 9.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Diagnostic


def offdiagonal_correlation(embeddings: Tensor) -> float:
    """Return sqrt(mean over i != j of rho_ij^2) of (N, D).

    It is about 1 / sqrt(N) when dimensions are independent, 1 when all of them say the same. NaN
    where no two dimensions vary.
    """
    x = embeddings.double()
    x = x - x.mean(0)
    varying = x.norm(dim=0) > 1e-6 * embeddings.double().norm(dim=0).clamp(min=1e-30)
    x = F.normalize(x[:, varying], dim=0)
    count = x.shape[1]
    if count < 2:
        return float("nan")
    squares = (x.T @ x).square().sum() - count
    return float((squares.clamp(min=0) / (count * (count - 1))) ** 0.5)


PART = Diagnostic(
    offdiagonal_correlation,
    healthy=lambda n, d: (0.0, 0.4),
    collapsed=lambda value, n, d: value > 0.9,
    tells="redundancy of the dimensions; 1 = all say the same",
    better="lower",
)
