"""Which windows of a recording have one speaker, and how many speakers there are.

* `whitened`: windows that overlap have one speaker, nearly always. So the differences of neighbours
  show in which directions embeddings move while the speaker does not, and these directions are
  scaled down: the within-class covariance normalisation of Hatch et al. 2006, learnt from the
  recording itself and without a label. It also makes cosines of different models comparable.
* `agglomerative`: average linkage on their cosines up to a threshold, which finds the number of
  speakers; `without_small` gives what is too short for a speaker to the others.
* `spectral`: where the number is known. Ng, Jordan and Weiss 2001, on the graph of nearest windows,
  whose size is that of the largest normalised eigengap (Park et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_FEWEST_PAIRS = 20  # neighbours from which a covariance is estimated
_FLOOR = 0.3  # share of the mean variance that is added to every direction
_DIRECTIONS = 10  # in which speakers of one recording are told apart

_NEIGHBOURS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3)
"""Shares of the windows that are tried for p."""


@dataclass(frozen=True)
class SpeakerCount:
    """How many speakers may be found.

    Attributes:
        smallest: at least so many.
        largest: at most so many.
    """

    smallest: int = 1
    largest: int = 8


def unit(vectors: NDArray[np.floating]) -> Matrix:
    """Return rows (N, D) at length 1."""
    rows = np.asarray(vectors, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def whitened(vectors: Matrix, starts: NDArray[np.float64], stops: NDArray[np.float64]) -> Matrix:
    """Return windows (N, K), of length 1, centred and with within-speaker directions scaled down.

    Args:
        vectors: (N, D) of length 1, in the order of time.
        starts: (N,) seconds.
        stops: (N,) seconds.
    """
    centred = vectors - vectors.mean(0)
    overlaps = starts[1:] < stops[:-1]
    if overlaps.sum() < _FEWEST_PAIRS:
        return unit(centred) if len(vectors) > 1 else vectors
    steps = np.diff(centred, axis=0)[overlaps]
    covariance = steps.T @ steps / len(steps)
    floor = _FLOOR * np.trace(covariance) / len(covariance)
    values, directions = np.linalg.eigh(covariance + floor * np.eye(len(covariance)))
    scaled = centred @ directions / np.sqrt(np.maximum(values, 1e-12))
    left, lengths, _ = np.linalg.svd(scaled, full_matrices=False)
    return unit((left * lengths)[:, :_DIRECTIONS])


def without_small(labels: NDArray[np.int64], vectors: Matrix, least: float) -> NDArray[np.int64]:
    """Return labels (N,) in which clusters of fewer than `least` windows have joined the others.

    The smallest goes first, each of its windows to the nearest centre; the last cluster stays.
    """
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    while labels.max() > 0:
        sizes = np.bincount(labels)
        smallest = int(sizes.argmin())
        if sizes[smallest] >= least:
            break
        others = [name for name in range(len(sizes)) if name != smallest]
        centres = unit(np.stack([vectors[labels == name].mean(0) for name in others]))
        own = labels == smallest
        labels[own] = np.array(others)[(vectors[own] @ centres.T).argmax(1)]
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return labels


def spectral(cosines: Matrix, count: SpeakerCount, seed: int = 0) -> NDArray[np.int64]:
    """Return the cluster (N,) of each window from their cosines (N, N)."""
    largest = min(count.largest, len(cosines))
    best = (np.inf, 1, np.zeros((len(cosines), 1)))
    order = np.argsort(-cosines, axis=1, kind="stable")
    for share in _NEIGHBOURS:
        neighbours = max(2, round(share * len(cosines)))
        values, vectors = _eigen(_graph(order, neighbours), largest + 1)
        gaps = np.diff(values)[count.smallest - 1 : largest]
        if not len(gaps):
            continue
        gap = float(gaps.max()) / max(float(values.max()), 1e-9)
        ratio = share / max(gap, 1e-9)
        if ratio < best[0]:
            best = (ratio, count.smallest + int(gaps.argmax()), vectors)
    speakers = best[1]
    if speakers == 1:
        return np.zeros(len(cosines), np.int64)
    return kmeans(unit(best[2][:, :speakers]), speakers, seed)


def _graph(order: NDArray[np.int64], neighbours: int) -> Matrix:
    """Return a symmetric graph (N, N): 1 where both are neighbours, 1/2 where one is."""
    size = len(order)
    graph = np.zeros((size, size))
    rows = np.repeat(np.arange(size), neighbours)
    graph[rows, order[:, :neighbours].ravel()] = 1.0
    return (graph + graph.T) / 2


def _eigen(graph: Matrix, count: int) -> tuple[NDArray[np.float64], Matrix]:
    """Return the smallest eigenvalues (K,) of the normalised Laplacian, and its eigenvectors (N, K)."""
    from scipy.linalg import eigh

    degree = graph.sum(1)
    scale = 1 / np.sqrt(np.maximum(degree, 1e-9))
    laplacian = np.eye(len(graph)) - graph * scale[:, None] * scale
    last = min(count, len(graph)) - 1
    values, vectors = eigh(laplacian, subset_by_index=(0, last))
    return values, vectors


def kmeans(rows: Matrix, clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the cluster (N,) of each row (N, D)."""
    from sklearn.cluster import KMeans

    found = KMeans(clusters, n_init=10, random_state=seed).fit_predict(rows)
    return np.asarray(found, np.int64)


def agglomerative(cosines: Matrix, count: SpeakerCount, threshold: float) -> NDArray[np.int64]:
    """Return the cluster (N,) of each window by average linkage on cosines (N, N).

    Args:
        cosines: of the windows.
        count: how many clusters there may be.
        threshold: cosine below which two clusters stay apart.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(cosines) < 2:
        return np.zeros(len(cosines), np.int64)
    distances = np.maximum(1 - cosines, 0.0)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "average")
    labels = fcluster(tree, max(0.0, 1 - threshold), "distance")
    found = int(labels.max())
    wanted = min(max(found, count.smallest), count.largest)
    if wanted != found:
        labels = fcluster(tree, wanted, "maxclust")
    return np.asarray(labels, np.int64) - 1
