"""Effective rank of the centred embeddings (Roy and Vetterli 2007; methods/README.md 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.diagnostics.ranks import healthy_ranks, rank_collapsed
from speechssl.interfaces import Diagnostic


def effective_rank(embeddings: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of (N, D) after centring.

    It is 1 when collapsed. Unlike RankMe it does not see a common offset of all embeddings, so it
    tells how many directions separate the utterances.
    """
    x = embeddings.float()
    sigma = torch.linalg.svdvals(x - x.mean(0))
    total = sigma.sum()
    if total <= 1e-5 * x.norm():  # what is left after centring is rounding
        return 1.0
    p = sigma / total
    p = p[p > 0]
    return float(torch.exp(-(p * p.log()).sum()))


PART = Diagnostic(
    effective_rank,
    healthy=healthy_ranks,
    collapsed=rank_collapsed,
    tells="directions in use after centring (entropy of singular values)",
    better="higher",
)
