"""Initial centroids that are far apart: k-means++ on the sphere.

Arthur and Vassilvitskii 2007 draw each centroid among the rows with a probability
proportional to the squared distance from the nearest one so far, which for unit vectors
is 2 - 2 cos. Of several draws the one is kept that leaves the smallest sum of these
distances, as in scikit-learn. From the 128th centroid on they are drawn in blocks, each
1 / 64 of the centroids drawn so far, and one draw is taken as it is (after Bahmani et
al. 2012): 10,000 centroids take some 400 passes in place of 10,000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from speechssl.clustering.nearest import nearest

BLOCK_SHARE = 64
"""Centroids are drawn in blocks of 1 / 64 of the number drawn so far, at least one."""


@torch.no_grad()
def plus_plus(
    x: Tensor,
    n_clusters: int,
    generator: torch.Generator | None = None,
    candidates: int = 0,
) -> Tensor:
    """Return K rows of x, drawn by k-means++.

    Args:
        x: (N, D) unit vectors, N at least K.
        n_clusters: K.
        generator: of the draws.
        candidates: draws of which one is kept; 0: 2 + ln K.

    Returns:
        (K, D). Rows that are equal are drawn only where there are fewer than K others.
    """
    candidates = candidates or 2 + int(math.log(n_clusters))
    chosen = torch.randint(len(x), (1,), generator=generator)
    cosines = nearest(x, x[chosen.to(x.device)])[1]
    while len(chosen) < n_clusters:
        weights = (1 - cosines.double().cpu()).clamp(min=1e-12)
        weights[chosen] = 0
        block = len(chosen) // BLOCK_SHARE
        if block > 1:
            count = min(n_clusters - len(chosen), block)
            drawn = torch.multinomial(weights, count, generator=generator)
            cosines = torch.maximum(cosines, nearest(x, x[drawn.to(x.device)])[1])
        else:
            count = min(candidates, len(x) - len(chosen))
            tried = torch.multinomial(weights, count, generator=generator)
            after = torch.maximum(cosines, x[tried.to(x.device)] @ x.T)  # (candidates, N)
            best = int(after.sum(1).argmax())
            drawn = tried[best : best + 1]
            cosines = after[best]
        chosen = torch.cat([chosen, drawn])
    return x[chosen.to(x.device)].clone()
