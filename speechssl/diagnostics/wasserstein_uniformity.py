"""Distance of normalised embeddings from an even spread (Fang et al. 2024; methods/README.md 9).

The Wasserstein-2 distance of N(mu, Sigma), fitted to n(z), from N(0, I / D). Unlike uniformity it
sees dimensions that are lost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Diagnostic


def wasserstein_uniformity(embeddings: Tensor) -> float:
    """Return sqrt(|mu|^2 + 1 + tr Sigma - 2 / sqrt(D) tr Sigma^(1/2)) of (N, D).

    It is near 0 when spread evenly, sqrt(2) when all embeddings are equal.
    """
    x = F.normalize(embeddings.double(), dim=-1)
    mean = x.mean(0)
    sigma = torch.linalg.svdvals(x - mean) / len(x) ** 0.5
    square = mean.square().sum() + 1 + sigma.square().sum() - 2 * sigma.sum() / x.shape[1] ** 0.5
    return float(square.clamp(min=0).sqrt())


PART = Diagnostic(
    wasserstein_uniformity,
    healthy=lambda n, d: (0.0, 0.8),
    collapsed=lambda value, n, d: value > 1.3,
    tells="distance from an even spread over all directions; 1.41 = one point",
    better="lower",
)
