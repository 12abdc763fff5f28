"""What comes before and after a clusterer: preparing embeddings, leaving out what is not to be
trusted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError


def prepared(embeddings: NDArray[np.float32], pca: float = 0.0) -> NDArray[np.float32]:
    """Mean subtracted, optionally projected, and scaled to unit length, (N, D').

    Args:
        pca: at least 1: that many principal directions; below 1: as many as hold this share of the
            variance; 0: none.

    Raises:
        UserError: more directions than there are.
    """
    x = embeddings - embeddings.mean(0, dtype=np.float64).astype(np.float32)
    if pca:
        covariance = np.asarray(x.T.astype(np.float32) @ x, np.float64) / max(1, len(x) - 1)
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
        kept = int(pca)
        if pca < 1:
            kept = int(np.searchsorted(np.cumsum(values) / values.sum(), pca) + 1)
        if not 1 <= kept <= x.shape[1]:
            raise UserError(
                f"cluster: --pca {pca:g} of {x.shape[1]} dimensions; give 1 to {x.shape[1]}, or a"
                " share"
            )
        x = x @ vectors[:, :kept].astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)


def confidences(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cosine (N,) of unit rows (N, D) with the normalised mean of their own cluster; -1 for
    outliers.
    """
    out = np.full(len(rows), -1.0, np.float32)
    known = labels >= 0
    if known.any():
        sums = np.zeros((labels.max() + 1, rows.shape[1]), np.float64)
        np.add.at(sums, labels[known], rows[known])
        means = sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)
        out[known] = np.einsum("nd,nd->n", rows[known], means[labels[known]].astype(np.float32))
    return out


def check_filter(smallest: int, largest: int, share: float) -> None:
    """Raise UserError for numbers that ``filtered`` cannot use."""
    if smallest < 1 or (largest and largest < smallest) or not 0 < share <= 1:
        raise UserError(
            f"cluster: smallest={smallest}, largest={largest}, share={share:g}: give 1 <= smallest"
            " <= largest and a share above 0, up to 1"
        )


def filtered(
    labels: NDArray[np.int64],
    confidence: NDArray[np.float32],
    smallest: int = 1,
    largest: int = 0,
    share: float = 1.0,
) -> NDArray[np.int64]:
    """Labels with -1 for what is left out; the clusters that remain are numbered from 0.

    Args:
        confidence: (N,), see ``confidences``.
        smallest, largest: members of a cluster (largest 0: any); the sizes are those before
            ``share``.
        share: of each cluster's members, the most confident ones, that stays (at least one).

    Raises:
        UserError: impossible numbers.
    """
    check_filter(smallest, largest, share)
    out = labels.copy()
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    bad = (sizes < smallest) | ((sizes > largest) if largest else False)
    out[(labels >= 0) & bad[labels.clip(min=0)]] = -1
    if share < 1:
        order = np.lexsort((-confidence, out))
        kept = out[order]
        first = np.searchsorted(kept, kept)
        place = np.arange(len(kept)) - first
        count = np.bincount(kept[kept >= 0], minlength=len(sizes))
        limit = np.maximum(1, np.ceil(share * count)).astype(int)
        out[order[(kept >= 0) & (place >= limit[kept.clip(min=0)])]] = -1
    names, renamed = np.unique(out[out >= 0], return_inverse=True)
    out[out >= 0] = renamed
    return out
