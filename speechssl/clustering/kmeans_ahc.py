"""k-means to many small clusters, then agglomerative clustering of their centroids.

What pseudo-labelling systems do (recipes/README.md 5): k-means with 50,000 centroids and Ward's linkage to
7,500, or N / 4 centroids and average linkage on cosines up to a threshold. The distance matrix of
the centroids is held twice as float64, 16 bytes for each of M (M - 1) / 2 pairs: 20 GB for 50,000,
0.8 GB for 10,000.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.clustering.kmeans import SphericalKMeans
from speechssl.errors import UserError


class KMeansAHC:
    """Centroids first, then a tree over them.

    Args:
        centroids: M of the k-means, 0 = a quarter of the embeddings.
        clusters: at which the tree is cut; 0 = cut by ``threshold``.
        linkage: ``ward`` (on unit vectors) or ``average`` (on cosine distances, 1 - cos).
        threshold: of the linkage's distance, where ``clusters`` is 0; for ``average`` 1 - cosine.
        iterations, seed, batch: of the k-means.
        memory: GB that the distances may take.
    """

    def __init__(
        self,
        *,
        centroids: int = 0,
        clusters: int = 100,
        linkage: Literal["ward", "average"] = "ward",
        threshold: float = 0.2,
        iterations: int = 20,
        seed: int = 0,
        batch: int = 0,
        memory: float = 8.0,
    ) -> None:
        if centroids < 0 or centroids == 1 or clusters < 0:
            raise UserError(
                f"kmeans_ahc: centroids={centroids}, clusters={clusters}; give 0 or more, but not 1"
                " centroid"
            )
        self.centroids, self.clusters, self.linkage = centroids, clusters, linkage
        self.threshold, self.memory = threshold, memory
        self.kmeans = {"iterations": iterations, "seed": seed, "batch": batch}

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Clusters (N,) of embeddings (N, D).

        Raises:
            UserError: the distances of the centroids do not fit into ``memory``, or fewer centroids
                than clusters are asked for.
        """
        from scipy.cluster.hierarchy import fcluster
        from scipy.cluster.hierarchy import linkage as tree_of

        count = self.centroids or max(2, len(embeddings) // 4)
        if count < self.clusters:
            raise UserError(
                f"kmeans_ahc: {count} centroids cannot make {self.clusters} clusters; raise"
                " centroids"
            )
        need = 16 * count * (count - 1) / 2 / 1e9  # scipy works on a copy
        if need > self.memory:
            fit = int((self.memory * 1e9 / 8) ** 0.5)
            raise UserError(
                f"kmeans_ahc: the distances of {count} centroids take {need:.1f} GB, more than"
                f" memory={self.memory:g}; take at most {fit} centroids"
            )
        first = SphericalKMeans(clusters=count, **self.kmeans)  # type: ignore[arg-type]
        labels = first.fit_predict(embeddings)
        points = first.centroids.astype(np.float64)
        if self.linkage == "ward":
            tree = tree_of(points, "ward")
        else:
            tree = tree_of(points, "average", metric="cosine")
        cut = {"t": self.clusters, "criterion": "maxclust"}
        if not self.clusters:
            cut = {"t": self.threshold, "criterion": "distance"}
        merged = np.asarray(fcluster(tree, **cut), dtype=np.int64) - 1
        return merged[labels]


PART = KMeansAHC
