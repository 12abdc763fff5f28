"""HDBSCAN, by scikit-learn: clusters of varying density, their number found, outliers marked -1.

Campello, Moulavi and Sander 2013. It compares all pairs: for tens of thousands of embeddings, not
for millions.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.interfaces import Clusterer

MAX_ROWS = 100_000


class HDBSCAN(Clusterer):
    """scikit-learn's HDBSCAN on unit vectors.

    Args:
        min_cluster_size: fewest members of a cluster.
        min_samples: neighbours that make a point dense; 0 = ``min_cluster_size``.

    Raises:
        UserError: a setting is out of its range.
    """

    RENAMED: ClassVar[dict[str, str]] = {"least": "min_cluster_size", "samples": "min_samples"}
    ORDER_FREE: ClassVar[bool] = True

    def __init__(self, *, min_cluster_size: int = 5, min_samples: int = 0) -> None:
        if min_cluster_size < 2 or min_samples < 0:
            raise UserError(
                f"hdbscan: min_cluster_size={min_cluster_size}, min_samples={min_samples}; give at"
                " least 2 and at least 0"
            )
        self.min_cluster_size = min_cluster_size
        self.min_samples = min_samples or min_cluster_size

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return clusters (N,) of embeddings (N, D), -1 for outliers.

        Fewer embeddings than a cluster needs are all outliers.

        Raises:
            UserError: more embeddings than all pairs of them can be compared.
        """
        from sklearn.cluster import HDBSCAN as SklearnHDBSCAN

        count = len(embeddings)
        if count > MAX_ROWS:
            raise UserError(
                f"hdbscan: {count} embeddings, more than {MAX_ROWS}: it compares all pairs;"
                " take kmeans or kmeans_ahc"
            )
        if count < max(self.min_cluster_size, self.min_samples):
            return np.full(count, -1, dtype=np.int64)
        rows = np.asarray(embeddings, np.float64)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
        clusterer = SklearnHDBSCAN(
            min_cluster_size=self.min_cluster_size, min_samples=self.min_samples, copy=True
        )
        return np.asarray(clusterer.fit_predict(rows), dtype=np.int64)


PART = HDBSCAN
