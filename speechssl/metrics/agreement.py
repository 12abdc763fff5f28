"""Agreement of clusters with classes: purity, mutual information, the adjusted Rand index."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from speechssl.errors import UserError
from speechssl.metrics.verification import Floats


def _joint(truth: ArrayLike, clusters: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the counts of (class, cluster) pairs, of classes, of clusters, and of the commonest
    class in each cluster.

    Only occupied cells are kept: thousands of speakers by thousands of clusters would not fit as a
    table.
    """
    truth = np.asarray(truth)
    clusters = np.asarray(clusters)
    if truth.ndim != 1 or truth.shape != clusters.shape or not len(truth):
        raise UserError(
            f"{clusters.shape} clusters for {truth.shape} labels: give one each, and at least one"
        )
    rows = np.unique(truth, return_inverse=True)[1]
    columns = np.unique(clusters, return_inverse=True)[1]
    width = int(columns.max()) + 1
    cells, counts = np.unique(rows * width + columns, return_counts=True)
    largest = np.zeros(width)
    np.maximum.at(largest, cells % width, counts)
    class_counts = np.bincount(rows).astype(float)
    cluster_counts = np.bincount(columns).astype(float)
    return counts.astype(float), class_counts, cluster_counts, largest


def purity(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the share of items (0 to 1) that belong to the commonest class of their cluster."""
    cells, _, _, largest = _joint(truth, clusters)
    return float(largest.sum() / cells.sum())


def nmi(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the mutual information over the mean of the two entropies (0 to 1).

    It is 1 when both have a single label.
    """

    def entropy(counts: Floats) -> float:
        shares = counts[counts > 0] / counts.sum()
        return float(-np.sum(shares * np.log(shares)))

    cells, classes, cluster_counts, _ = _joint(truth, clusters)
    both = entropy(classes) + entropy(cluster_counts)
    if both == 0.0:
        return 1.0
    return max(0.0, 2 * (both - entropy(cells)) / both)


def ari(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Return the adjusted Rand index (Hubert and Arabie 1985).

    It is 1 for equal partitions and 0 on average for random ones.
    """

    def pairs(counts: Floats) -> float:
        return float(np.sum(counts * (counts - 1) / 2))

    cells, classes, cluster_counts, _ = _joint(truth, clusters)
    together = pairs(cells)
    by_class = pairs(classes)
    by_cluster = pairs(cluster_counts)
    expected = by_class * by_cluster / max(pairs(cells.sum(keepdims=True)), 1.0)
    largest = (by_class + by_cluster) / 2
    if largest == expected:
        return 1.0
    return (together - expected) / (largest - expected)
