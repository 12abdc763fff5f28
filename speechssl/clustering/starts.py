"""Initial centroids that are far apart: k-means++ on the sphere.

Arthur and Vassilvitskii 2007 draw each centroid among the rows with a
probability proportional to the squared distance from the nearest one so far, which for
unit vectors is 2 - 2 cos. Beyond the first few, centroids are drawn in blocks of a
sixteenth of those that there are (after Bahmani et al. 2012): 10,000 centroids take some
130 passes in place of 10,000.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.clustering.nearest import nearest

BLOCK_SHARE = 16
"""Centroids are drawn in blocks of 1 / 16 of those that there are, at least one."""


@torch.no_grad()
def plus_plus(x: Tensor, n_clusters: int, generator: torch.Generator | None = None) -> Tensor:
    """Return K rows of x, drawn by k-means++.

    Args:
        x: (N, D) unit vectors, N at least K.
        n_clusters: K.
        generator: of the draws.

    Returns:
        (K, D). Rows that are equal are drawn only where there are fewer than K others.
    """
    chosen = torch.randint(len(x), (1,), generator=generator)
    cosines = nearest(x, x[chosen.to(x.device)])[1]
    while len(chosen) < n_clusters:
        count = min(n_clusters - len(chosen), max(1, len(chosen) // BLOCK_SHARE))
        weights = (1 - cosines.double().cpu()).clamp(min=1e-12)
        weights[chosen] = 0
        drawn = torch.multinomial(weights, count, generator=generator)
        chosen = torch.cat([chosen, drawn])
        if len(chosen) < n_clusters:
            cosines = torch.maximum(cosines, nearest(x, x[drawn.to(x.device)])[1])
    return x[chosen.to(x.device)].clone()
