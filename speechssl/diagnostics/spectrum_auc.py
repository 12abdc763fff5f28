"""Area under the cumulative singular values (Li, Efros and Pathak 2022; methods/README.md 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.interfaces import Diagnostic


def singular_values(embeddings: Tensor) -> Tensor:
    """Of the centred (N, D) matrix, descending, (min(N, D),)."""
    x = embeddings.float()
    return torch.linalg.svdvals(x - x.mean(0))


def cumulative(embeddings: Tensor) -> Tensor:
    """C_k = sum of the k largest singular values over the sum of all, (min(N, D),); 1 throughout if
    all are
    0. Singular values, not their squares.
    """
    sigma = singular_values(embeddings)
    total = sigma.sum()
    if total <= 1e-5 * embeddings.float().norm():
        return torch.ones_like(sigma)
    return sigma.cumsum(0) / total


def spectrum_auc(embeddings: Tensor) -> float:
    """Mean of C_k: (d + 1) / 2d for a flat spectrum, 1 for a single direction. Larger = more
    collapse.
    """
    return float(cumulative(embeddings).mean())


PART = Diagnostic(
    spectrum_auc,
    healthy=lambda n, d: (0.5, 0.9),
    collapsed=lambda value, n, d: value > 0.98,
    tells="how early the cumulative spectrum saturates; 0.5 flat, 1 = one direction",
    better="lower",
)
