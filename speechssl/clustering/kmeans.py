"""Spherical k-means: cosine similarity, centroids on the unit sphere, all on matrix products.

Dhillon and Modha 2001. Embeddings are L2-normalised here; one iteration assigns every one of them
to the centroid of the largest cosine (in tiles, so memory stays at one tile) and sets each centroid
to the normalised mean of its members. A centroid without members is moved to the embedding that its
own serves worst.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from speechssl.errors import UserError

_TILE = 1 << 22  # similarities held at a time: 16 MB in float32


class SphericalKMeans:
    """K clusters of embeddings.

    Args:
        clusters: K.
        iterations: at most; ends earlier when no embedding changes its cluster.
        seed: of the initial centroids, which are K random embeddings.
        batch: embeddings used to fit, a random choice of so many; 0 = all. All are assigned in the
            end.

    Attributes (after a fit):
        centroids: (K, D) float32 of unit length. objective: mean cosine to the own centroid.
    """

    def __init__(
        self,
        *,
        clusters: int = 100,
        iterations: int = 20,
        seed: int = 0,
        batch: int = 0,
    ) -> None:
        if clusters < 1:
            raise UserError(f"kmeans: clusters={clusters}; give at least 1")
        self.clusters, self.iterations, self.seed, self.batch = clusters, iterations, seed, batch
        self.centroids = np.zeros((0, 0), dtype=np.float32)
        self.objective = 0.0

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Clusters (N,) of embeddings (N, D).

        Raises:
            UserError: fewer embeddings than clusters.
        """
        x = F.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
        generator = torch.Generator().manual_seed(self.seed)
        sample = x
        if self.batch and self.batch < len(x):
            sample = x[torch.randperm(len(x), generator=generator)[: self.batch].sort().values]
        centroids, labels, cosines = spherical_kmeans(
            sample, self.clusters, self.iterations, generator
        )
        if sample is not x:
            labels, cosines = nearest(x, centroids)
        self.centroids, self.objective = centroids.numpy(), float(cosines.mean())
        return labels.numpy()


@torch.no_grad()
def spherical_kmeans(
    x: Tensor,
    clusters: int,
    iterations: int,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Centroids (K, D), labels (N,) and cosines to the own centroid (N,) of unit vectors x (N, D).

    Args:
        generator: for the initial centroids; not used where ``start`` (K, D) gives them.
    """
    if len(x) < clusters:
        raise UserError(
            f"kmeans: {len(x)} embeddings cannot make {clusters} clusters; ask for fewer"
        )
    if start is None:
        centroids = x[torch.randperm(len(x), generator=generator)[:clusters].to(x.device)].clone()
    else:
        centroids = F.normalize(start, dim=1)
    labels, cosines = nearest(x, centroids)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=clusters)
        empty = torch.nonzero(counts == 0).flatten()
        if len(empty):
            sums[empty] = x[cosines.topk(len(empty), largest=False).indices]
        centroids = F.normalize(sums, dim=1)
        before = labels
        labels, cosines = nearest(x, centroids)
        if torch.equal(before, labels):
            break
    return centroids, labels, cosines


@torch.no_grad()
def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Index (N,) and cosine (N,) of the nearest centroid (K, D) of each unit vector x (N, D), tile
    by tile.

    On a CPU faiss does it where it is installed: fused product and maximum, 2/3 of torch's time
        here.
    """
    faiss = _faiss()
    if faiss is not None and x.device.type == "cpu":
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(centroids.contiguous().numpy())
        found, places = index.search(x.contiguous().numpy(), 1)
        return torch.from_numpy(places[:, 0]), torch.from_numpy(found[:, 0])
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    cosines = torch.empty(len(x), dtype=x.dtype, device=x.device)
    step = max(1, _TILE // len(centroids))
    tile, columns = x.new_empty(step, len(centroids)), centroids.T
    for start in range(0, len(x), step):
        block = slice(start, min(start + step, len(x)))
        products = torch.mm(x[block], columns, out=tile[: block.stop - start])
        torch.max(products, dim=1, out=(cosines[block], labels[block]))
    return labels, cosines


@cache
def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        return None
    return faiss


PART = SphericalKMeans
