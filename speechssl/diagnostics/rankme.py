"""RankMe: the effective number of directions that embeddings use.

Garrido et al. 2023; methods/README.md 9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.diagnostics.ranks import few, many
from speechssl.interfaces import Diagnostic


def rankme(embeddings: Tensor, epsilon: float = 1e-7) -> float:
    """exp of the entropy of the normalised singular values of the uncentred (N, D) matrix.

    Between 1 (all samples on one line through the origin) and min(N, D). Wants N of at least 2 D.
    """
    sigma = torch.linalg.svdvals(embeddings.float())
    p = sigma / sigma.sum().clamp_min(1e-30) + epsilon
    return float(torch.exp(-(p * p.log()).sum()))


PART = Diagnostic(
    rankme,
    healthy=many,
    collapsed=few,
    tells="directions in use without centring (RankMe)",
    better="higher",
)
