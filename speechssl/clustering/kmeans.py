"""Spherical k-means: cosine similarity, centroids on the unit sphere, all on matrix products.

Dhillon and Modha 2001. Embeddings are L2-normalised here; one iteration assigns every one of them
to the centroid of the largest cosine (in tiles, so memory stays at one tile) and sets each centroid
to the normalised mean of its members. A centroid without members is moved to the embedding whose
cosine with its own centroid is lowest.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.interfaces import Clusterer

TILE = 1 << 22
"""Similarities held at a time: 16 MB in float32."""


class SphericalKMeans(Clusterer):
    """K clusters of embeddings.

    Args:
        n_clusters: K.
        max_iter: iterations at most; fewer where no embedding changes its cluster any more.
        seed: of the initial centroids, which are K random embeddings.
        sample_size: fit on so many embeddings, drawn at random; 0 = all. All of them are assigned
            in the end.

    Attributes:
        centroids: (K, D) float32 of unit length, after a fit.
        objective: mean cosine of an embedding with its centroid, after a fit.

    Raises:
        UserError: a setting is out of its range.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "clusters": "n_clusters",
        "iterations": "max_iter",
        "batch": "sample_size",
    }

    def __init__(
        self,
        *,
        n_clusters: int = 100,
        max_iter: int = 20,
        seed: int = 0,
        sample_size: int = 0,
    ) -> None:
        if n_clusters < 1:
            raise UserError(f"kmeans: n_clusters={n_clusters}; give at least 1")
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.seed = seed
        self.sample_size = sample_size
        self.centroids = np.zeros((0, 0), dtype=np.float32)
        self.objective = 0.0

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return clusters (N,) of embeddings (N, D).

        Raises:
            UserError: fewer embeddings than clusters.
        """
        x = F.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
        generator = torch.Generator().manual_seed(self.seed)
        sample = x
        if 0 < self.sample_size < len(x):
            order = torch.randperm(len(x), generator=generator)
            sample = x[order[: self.sample_size].sort().values]
        centroids, labels, cosines = spherical_kmeans(
            sample, self.n_clusters, self.max_iter, generator
        )
        if sample is not x:
            labels, cosines = nearest(x, centroids)
        self.centroids = centroids.numpy()
        self.objective = float(cosines.mean())
        return labels.numpy()


@torch.no_grad()
def spherical_kmeans(
    x: Tensor,
    n_clusters: int,
    max_iter: int,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster unit vectors.

    Args:
        x: (N, D) unit vectors.
        n_clusters: K.
        max_iter: iterations at most.
        generator: for the initial centroids; not used where ``start`` gives them.
        start: (K, D) initial centroids; None: K random rows of ``x``.

    Returns:
        Centroids (K, D), labels (N,), and the cosine of each row with its centroid (N,).

    Raises:
        UserError: fewer rows than clusters.
    """
    if len(x) < n_clusters:
        raise UserError(
            f"kmeans: {len(x)} embeddings cannot make {n_clusters} clusters; lower n_clusters"
            " (kmeans_ahc: n_centroids)"
        )
    if start is None:
        order = torch.randperm(len(x), generator=generator)
        centroids = x[order[:n_clusters].to(x.device)].clone()
    else:
        centroids = F.normalize(start, dim=1)
    labels, cosines = nearest(x, centroids)
    for _ in range(max_iter):
        sums = torch.zeros_like(centroids).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=n_clusters)
        empty = torch.nonzero(counts == 0).flatten()
        if len(empty):
            worst = cosines.topk(len(empty), largest=False).indices
            sums[empty] = x[worst]
        centroids = F.normalize(sums, dim=1)
        before = labels
        labels, cosines = nearest(x, centroids)
        if torch.equal(before, labels):
            break
    return centroids, labels, cosines


@torch.no_grad()
def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid (K, D) of each unit vector x (N, D).

    On a CPU faiss does it where it is installed: its fused product and maximum took 2/3 of torch's
    time here.

    Returns:
        Index (N,) int64 and cosine (N,) of the nearest centroid.
    """
    faiss = faiss_if_installed()
    if faiss is not None and x.device.type == "cpu":
        return _nearest_by_faiss(faiss, x, centroids)
    return _nearest_by_tiles(x, centroids)


def _nearest_by_faiss(faiss: Any, x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(centroids.contiguous().numpy())
    cosines, labels = index.search(x.contiguous().numpy(), 1)
    return torch.from_numpy(labels[:, 0]), torch.from_numpy(cosines[:, 0])


def _nearest_by_tiles(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    cosines = torch.empty(len(x), dtype=x.dtype, device=x.device)
    step = max(1, TILE // len(centroids))
    tile = x.new_empty(step, len(centroids))
    for start in range(0, len(x), step):
        stop = min(start + step, len(x))
        products = torch.mm(x[start:stop], centroids.T, out=tile[: stop - start])
        torch.max(products, dim=1, out=(cosines[start:stop], labels[start:stop]))
    return labels, cosines


@cache
def faiss_if_installed() -> Any:
    """Return the module faiss, or None."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


PART = SphericalKMeans
