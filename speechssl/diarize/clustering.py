"""Cluster the windows of a recording by speaker, and find how many speakers there are.

* `spread_of`: in which directions the windows differ most, and by how much neighbours do.
* `whitened`: overlapping windows nearly always have one speaker, so the differences between
  neighbours estimate the within-speaker covariance, and embeddings are scaled by its inverse root:
  the within-class covariance normalisation of Hatch et al. 2006, estimated on the recording itself
  and without labels. It also makes cosines of different models comparable.
* `variance_ratio`: whether there is more than one speaker at all.
* `agglomerative`: average linkage on their cosines up to a threshold, which finds the number of
  speakers; `merge_small` merges clusters that are too short for a speaker into the others.
* `kmeans`: where the number is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_FEWEST_PAIRS = 20  # neighbours from which a covariance is estimated
_FLOOR = 0.3  # share of the mean variance that is added to every direction when whitening
_RATIO_FLOOR = 2.0  # and for the ratio of variances
_DIRECTIONS = 20  # in which the windows of a recording differ most


@dataclass(frozen=True)
class SpeakerCount:
    """How many speakers may be found.

    Attributes:
        least: at least so many.
        most: at most so many.
    """

    least: int = 1
    most: int = 8


def unit(vectors: NDArray[np.floating]) -> Matrix:
    """Return rows (N, D) at length 1."""
    rows = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Matrix = rows / np.maximum(lengths, 1e-12)
    return scaled


@dataclass(frozen=True)
class Spread:
    """How the N windows of a recording differ, in the K directions where they differ most.

    Attributes:
        reduced: (N, K), the windows, centred, in these directions.
        steps: (K, K), half the covariance of the differences between neighbours that overlap.
    """

    reduced: Matrix
    steps: Matrix

    def within(self, floor: float) -> Matrix:
        """Return the covariance (K, K) within a speaker.

        Args:
            floor: share of the mean variance that is added to every direction.
        """
        added = floor * np.trace(self.steps) / len(self.steps)
        covariance: Matrix = self.steps + added * np.eye(len(self.steps))
        return covariance


def spread_of(
    vectors: Matrix, starts: NDArray[np.float64], stops: NDArray[np.float64]
) -> Spread | None:
    """Return how windows differ; None if too few of them overlap to say.

    Args:
        vectors: (N, D) of length 1, in the order of time.
        starts: (N,) seconds.
        stops: (N,) seconds.
    """
    overlaps = starts[1:] < stops[:-1]
    if overlaps.sum() < _FEWEST_PAIRS:
        return None
    # A minute has too few windows for the covariance of all D directions.
    left, lengths, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    reduced = (left * lengths)[:, :_DIRECTIONS]
    steps = np.diff(reduced, axis=0)[overlaps]
    return Spread(reduced, steps.T @ steps / (2 * len(steps)))


def whitened(vectors: Matrix, spread: Spread | None) -> Matrix:
    """Return windows (N, K), of length 1, centred and with within-speaker directions scaled down.

    Args:
        vectors: (N, D) of length 1.
        spread: of these windows; None: they are centred only.
    """
    if len(vectors) == 1:
        return vectors
    if spread is None:
        return unit(vectors - vectors.mean(0))
    values, directions = np.linalg.eigh(spread.within(_FLOOR))
    return unit(spread.reduced @ directions / np.sqrt(np.maximum(values, 1e-12)))


def variance_ratio(spread: Spread | None) -> float:
    """Return how many times as much the windows of a recording vary as neighbouring ones do.

    Taken along the direction in which it is largest: the first eigenvalue of linear discriminant
    analysis, with neighbours in place of classes. One voice varies little more over minutes than
    from one window to the next. Infinite if there are too few windows to say (None).
    """
    from scipy.linalg import eigh

    if spread is None:
        return np.inf
    within = spread.within(_RATIO_FLOOR)
    if not np.trace(within) > 0:
        return 1.0
    total = spread.reduced.T @ spread.reduced / len(spread.reduced)
    return float(eigh(total, within, eigvals_only=True)[-1])


def merge_small(labels: NDArray[np.int64], vectors: Matrix, min_size: float) -> NDArray[np.int64]:
    """Return labels (N,) in which clusters of fewer than `min_size` windows are merged into the others.

    The smallest is merged first, each of its windows into the cluster with the nearest centre; one
    cluster always stays.
    """
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    while labels.max() > 0:
        sizes = np.bincount(labels)
        smallest = int(sizes.argmin())
        if sizes[smallest] >= min_size:
            break
        others = [name for name in range(len(sizes)) if name != smallest]
        centres = unit(np.stack([vectors[labels == name].mean(0) for name in others]))
        own = labels == smallest
        labels[own] = np.array(others)[(vectors[own] @ centres.T).argmax(1)]
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return labels


def kmeans(rows: Matrix, clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the cluster (N,) of each row (N, D)."""
    from sklearn.cluster import KMeans

    clusters = min(clusters, len(np.unique(rows, axis=0)))
    found = KMeans(clusters, n_init=10, random_state=seed).fit_predict(rows)
    return np.asarray(found, np.int64)


def agglomerative(cosines: Matrix, threshold: float) -> NDArray[np.int64]:
    """Return the cluster (N,) of each window by average linkage on cosines (N, N).

    Args:
        cosines: of the windows.
        threshold: mean cosine below which two clusters stay apart.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(cosines) < 2:
        return np.zeros(len(cosines), np.int64)
    distances = np.maximum(1 - cosines, 0.0)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "average")
    labels = fcluster(tree, max(0.0, 1 - threshold), "distance")
    return np.asarray(labels, np.int64) - 1
