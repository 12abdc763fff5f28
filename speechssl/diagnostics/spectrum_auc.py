"""Area under the cumulative singular values (Li, Efros and Pathak 2022; methods/README.md 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.interfaces import Diagnostic


def singular_values(embeddings: Tensor) -> Tensor:
    """Return the singular values (min(N, D),) of the centred (N, D) matrix, descending."""
    x = embeddings.float()
    values: Tensor = torch.linalg.svdvals(x - x.mean(0))
    return values


def cumulative(embeddings: Tensor) -> Tensor:
    """Return C_k, the sum of the k largest singular values over the sum of all, (min(N, D),).

    They are singular values, not their squares. All C_k are 1 where all singular values are 0.
    """
    sigma = singular_values(embeddings)
    total = sigma.sum()
    if total <= 1e-5 * embeddings.float().norm():
        return torch.ones_like(sigma)
    return sigma.cumsum(0) / total


def spectrum_auc(embeddings: Tensor) -> float:
    """Return the mean of C_k: (d + 1) / 2d for a flat spectrum, 1 for a single direction."""
    return float(cumulative(embeddings).mean())


PART = Diagnostic(
    spectrum_auc,
    healthy=lambda n, d: (0.5, 0.9),
    collapsed=lambda value, n, d: value > 0.98,
    tells="how early the cumulative spectrum saturates; 0.5 flat, 1 = one direction",
    better="lower",
)
