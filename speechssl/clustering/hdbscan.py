"""HDBSCAN, by scikit-learn: clusters of varying density, their number found, outliers marked -1.

Campello, Moulavi and Sander 2013. It compares all pairs: for tens of thousands of embeddings, not
for millions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError

_MOST = 100_000


class HDBSCAN:
    """scikit-learn's, on unit vectors.

    Args:
        least: members of a cluster.
        samples: neighbours that make a point dense; 0 = ``least``.
    """

    def __init__(self, *, least: int = 5, samples: int = 0) -> None:
        self.least, self.samples = least, samples

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Clusters (N,) of embeddings (N, D), -1 for outliers."""
        from sklearn.cluster import HDBSCAN as Theirs

        if len(embeddings) > _MOST:
            raise UserError(
                f"hdbscan: {len(embeddings)} embeddings, more than {_MOST}: it compares all pairs;"
                " take kmeans or kmeans_ahc"
            )
        rows = np.asarray(embeddings, np.float64)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
        found = Theirs(min_cluster_size=self.least, min_samples=self.samples or None, copy=True)
        return np.asarray(found.fit_predict(rows), dtype=np.int64)


PART = HDBSCAN
