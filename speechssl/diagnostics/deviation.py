"""Deviation of each dimension of the normalised embedding (Chen and He 2021; methods/README.md 9)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Diagnostic


def deviation(embeddings: Tensor) -> float:
    """Return sqrt(D) times the mean over dimensions of the deviation of x / ||x||, of (N, D).

    It is about 1 when spread evenly, 0 when collapsed. After a BatchNorm it is blind: look at a
    rank beside it.
    """
    x = F.normalize(embeddings.float(), dim=-1)
    return float(x.std(0, unbiased=False).mean() * x.shape[1] ** 0.5)


PART = Diagnostic(
    deviation,
    healthy=lambda n, d: (0.5, 1.1),
    collapsed=lambda value, n, d: value < 0.1,
    tells="spread of each dimension; 0 = all alike; blind after a final BatchNorm",
)
