"""Before and after a clusterer: preparing embeddings, and leaving out doubtful members."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from speechssl.errors import UserError

_ROWS_AT_ONCE = 8192


def prepared(embeddings: NDArray[np.float32], pca: float = 0.0) -> NDArray[np.float32]:
    """Subtract the mean, project on principal directions if asked, and scale to unit length.

    Args:
        embeddings: (N, D).
        pca: at least 1: that many principal directions; below 1: as many as hold this share of the
            variance; 0: no projection.

    Returns:
        (N, D') float32.

    Raises:
        UserError: more directions than there are.
    """
    x = embeddings - embeddings.mean(0, dtype=np.float64).astype(np.float32)
    if pca:
        x = _project(x, pca)
    norms = np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    unit: NDArray[np.float32] = (x / norms).astype(np.float32)
    return unit


def _project(x: NDArray[np.float32], pca: float) -> NDArray[np.float32]:
    """Project centred rows (N, D) on their principal directions; see `prepared`."""
    covariance = np.asarray(x.T @ x, np.float64) / max(1, len(x) - 1)
    return x @ directions(covariance, pca)


def directions(covariance: NDArray[np.float64], pca: float) -> NDArray[np.float32]:
    """Return the principal directions (D, D') of a covariance (D, D); `pca` as for `prepared`.

    Raises:
        UserError: more directions than there are, or no number above 0.
    """
    dim = len(covariance)
    if not 0 < pca <= dim:
        raise UserError(f"cluster: --pca {pca:g} of {dim} dimensions; give 1 to {dim}, or a share")
    ascending, vectors = np.linalg.eigh(covariance)
    variances = ascending[::-1].clip(min=0)
    kept = int(pca)
    if pca < 1:
        shares = np.cumsum(variances) / variances.sum()
        kept = min(dim, int(np.searchsorted(shares, pca)) + 1)
    return vectors[:, ::-1][:, :kept].astype(np.float32)


def confidences(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return how close each row is to its cluster.

    Args:
        rows: (N, D) unit vectors.
        labels: (N,) clusters, -1 for outliers.

    Returns:
        (N,) cosines with the normalised mean of the own cluster; -1 for outliers.
    """
    count = int(labels.max(initial=-1)) + 1
    places = np.where(labels < 0, count, labels)  # outliers have a place behind the clusters
    sums = torch.zeros(count + 1, rows.shape[1], dtype=torch.float64)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(first, first + _ROWS_AT_ONCE)
        sums.index_add_(0, torch.from_numpy(places[block]), torch.from_numpy(rows[block]).double())
    means = F.normalize(sums, dim=1).float().numpy()
    cosines: NDArray[np.float32] = np.einsum("nd,nd->n", rows, means[places])
    cosines[labels < 0] = -1.0
    return cosines


def check_filter(min_cluster_size: int, max_cluster_size: int, keep_fraction: float) -> None:
    """Raise UserError for numbers that `filtered` cannot use."""
    if (
        min_cluster_size < 1
        or (max_cluster_size and max_cluster_size < min_cluster_size)
        or not 0 < keep_fraction <= 1
    ):
        raise UserError(
            f"cluster: min_cluster_size={min_cluster_size}, max_cluster_size={max_cluster_size},"
            f" keep_fraction={keep_fraction:g}: give 1 <= min_cluster_size <= max_cluster_size and a"
            " keep_fraction above 0, up to 1"
        )


def filtered(
    labels: NDArray[np.int64],
    confidence: NDArray[np.float32],
    min_cluster_size: int = 1,
    max_cluster_size: int = 0,
    keep_fraction: float = 1.0,
) -> NDArray[np.int64]:
    """Leave out clusters by their size, and the least confident members of the others.

    Args:
        labels: (N,) clusters, -1 for outliers.
        confidence: (N,), see `confidences`.
        min_cluster_size: fewest members of a cluster, before ``keep_fraction``.
        max_cluster_size: most members of a cluster, before ``keep_fraction``; 0: any number.
        keep_fraction: of each cluster's members, the most confident ones, that stays (at least one).

    Returns:
        (N,) clusters, -1 for what is left out; those that remain are numbered from 0.

    Raises:
        UserError: impossible numbers.
    """
    check_filter(min_cluster_size, max_cluster_size, keep_fraction)
    kept = labels.copy()
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    too_small_or_large = sizes < min_cluster_size
    if max_cluster_size:
        too_small_or_large |= sizes > max_cluster_size
    kept[(labels >= 0) & too_small_or_large[labels.clip(min=0)]] = -1
    if keep_fraction < 1:
        kept[_least_confident(kept, confidence, keep_fraction)] = -1
    _, renumbered = np.unique(kept[kept >= 0], return_inverse=True)
    kept[kept >= 0] = renumbered
    return kept


def _least_confident(
    labels: NDArray[np.int64], confidence: NDArray[np.float32], keep_fraction: float
) -> NDArray[np.intp]:
    """Return the rows beyond the most confident ``keep_fraction`` of each cluster."""
    order = np.lexsort((-confidence, labels))  # by cluster, the most confident first
    ordered = labels[order]
    first_of_cluster = np.searchsorted(ordered, ordered)
    place = np.arange(len(ordered)) - first_of_cluster
    counts = np.bincount(ordered[ordered >= 0], minlength=1)
    # Rounded: .55 times 100 is a little above 55.
    limits = np.maximum(1, np.ceil((keep_fraction * counts).round(9))).astype(int)
    beyond = place >= limits[ordered.clip(min=0)]
    rows: NDArray[np.intp] = order[(ordered >= 0) & beyond]
    return rows
