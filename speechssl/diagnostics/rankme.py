"""RankMe: the effective number of directions that embeddings use.

Garrido et al. 2023; methods/README.md 9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.diagnostics.ranks import healthy_ranks, rank_collapsed
from speechssl.interfaces import Diagnostic


def rankme(embeddings: Tensor, epsilon: float = 1e-7) -> float:
    """Return exp of the entropy of the normalised singular values of (N, D), not centred.

    It is between 1 (all samples on one line through the origin) and min(N, D), and needs N of at
    least 2 D to be read as a rank of the distribution.
    """
    sigma = torch.linalg.svdvals(embeddings.float())
    p = sigma / sigma.sum().clamp_min(1e-30) + epsilon
    return float(torch.exp(-(p * p.log()).sum()))


PART = Diagnostic(
    rankme,
    healthy=healthy_ranks,
    collapsed=rank_collapsed,
    tells="directions in use without centring (RankMe)",
    better="higher",
)
