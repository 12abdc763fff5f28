"""k-means to many small clusters, then agglomerative clustering of their centroids.

What pseudo-labelling systems do (recipes/README.md 5): k-means with 50,000 centroids and Ward's linkage to
7,500, or N / 4 centroids and average linkage on cosines up to a threshold. The distance matrix of
the centroids is held twice as float64, 16 bytes for each of M (M - 1) / 2 pairs: 20 GB for 50,000,
0.8 GB for 10,000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.clustering.kmeans import SphericalKMeans
from speechssl.errors import UserError
from speechssl.interfaces import Clusterer

if TYPE_CHECKING:
    from speechssl.clustering.streamed import Fitted, Streamed


class KMeansAHC(Clusterer):
    """k-means first, then a tree over its centroids.

    Args:
        n_centroids: M of the k-means; 0 = a quarter of the embeddings.
        n_clusters: clusters at which the tree is cut; 0 = cut by ``distance_threshold``.
        linkage: ``ward`` (on unit vectors) or ``average`` (on cosine distances, 1 - cos).
        distance_threshold: of the linkage's distance, where ``n_clusters`` is 0; for ``average`` it
            is 1 - cosine.
        max_iter: iterations of the k-means at most.
        seed: of the initial centroids.
        sample_size: fit the k-means on so many embeddings, drawn at random; 0 = all. All of them
            are assigned in the end.
        memory_gb: GB that the distances may take.

    Raises:
        UserError: a setting is out of its range.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "centroids": "n_centroids",
        "clusters": "n_clusters",
        "threshold": "distance_threshold",
        "iterations": "max_iter",
        "batch": "sample_size",
        "memory": "memory_gb",
    }

    def __init__(
        self,
        *,
        n_centroids: int = 0,
        n_clusters: int = 100,
        linkage: Literal["ward", "average"] = "ward",
        distance_threshold: float = 0.2,
        max_iter: int = 20,
        seed: int = 0,
        sample_size: int = 0,
        memory_gb: float = 8.0,
    ) -> None:
        if n_centroids < 0 or n_centroids == 1 or n_clusters < 0:
            raise UserError(
                f"kmeans_ahc: n_centroids={n_centroids}, n_clusters={n_clusters}; give 0 or more,"
                " but not 1 centroid"
            )
        self.n_centroids = n_centroids
        self.n_clusters = n_clusters
        self.linkage = linkage
        self.distance_threshold = distance_threshold
        self.max_iter = max_iter
        self.seed = seed
        self.sample_size = sample_size
        self.memory_gb = memory_gb

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return clusters (N,) of embeddings (N, D).

        Raises:
            UserError: the distances of the centroids do not fit into ``memory_gb``, or fewer
                centroids than clusters, or fewer embeddings than centroids.
        """
        count = self.n_centroids or max(2, len(embeddings) // 4)
        self._check_count(count, len(embeddings))
        first = SphericalKMeans(
            n_clusters=count,
            max_iter=self.max_iter,
            seed=self.seed,
            sample_size=self.sample_size,
        )
        centroid_of_row = first.fit_predict(embeddings)
        cluster_of_centroid = self._merge(first.centroids.astype(np.float64))
        return cluster_of_centroid[centroid_of_row]

    def fit_streamed(self, streamed: Streamed) -> Fitted:
        """Fit on embeddings that are read a block at a time, by one process or several.

        Raises:
            UserError: as `fit_predict`; or `sample_size`, which goes with embeddings in memory.
        """
        from speechssl.clustering.streamed import merged

        count = self.n_centroids or max(2, streamed.rows // 4)
        self._check_count(count, streamed.rows)
        first = SphericalKMeans(
            n_clusters=count,
            max_iter=self.max_iter,
            seed=self.seed,
            sample_size=self.sample_size,
        )
        return merged(first.fit_streamed(streamed), self._merge)

    def _check_count(self, count: int, rows: int) -> None:
        """Refuse a number of centroids that is too small for the clusters, or too large.

        Args:
            count: centroids.
            rows: embeddings.
        """
        quarter = max(2, rows // 4)
        if count > rows or self.n_clusters > max(count, quarter):
            raise UserError(
                f"kmeans_ahc: {rows} embeddings cannot make {self.n_clusters} clusters of {count}"
                f" centroids; n_centroids=0 makes {quarter} centroids, give"
                f" n_clusters={max(1, quarter // 2)} or so beside it"
            )
        if count < self.n_clusters:
            raise UserError(
                f"kmeans_ahc: {count} centroids cannot make {self.n_clusters} clusters; raise"
                " n_centroids"
            )
        needed = 16 * count * (count - 1) / 2 / 1e9  # scipy works on a copy
        if needed > self.memory_gb:
            fit = int((self.memory_gb * 1e9 / 8) ** 0.5)
            raise UserError(
                f"kmeans_ahc: the distances of {count} centroids take {needed:.1f} GB, more than"
                f" memory_gb={self.memory_gb:g}; take at most {fit} centroids"
            )

    def _merge(self, centroids: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the cluster (M,) of each centroid (M, D)."""
        from scipy.cluster.hierarchy import fcluster, linkage

        if self.linkage == "ward":
            tree = linkage(centroids, "ward")
        else:
            tree = linkage(centroids, "average", metric="cosine")
        if self.n_clusters:
            clusters = fcluster(tree, self.n_clusters, criterion="maxclust")
        else:
            clusters = fcluster(tree, self.distance_threshold, criterion="distance")
        return np.asarray(clusters, dtype=np.int64) - 1  # scipy counts from 1


PART = KMeansAHC
