"""Embeddings as points of a plane: t-SNE of scikit-learn, UMAP where it is installed, or PCA."""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError

METHODS = ("auto", "tsne", "umap", "pca")

FEWEST_FOR_NEIGHBOURS = 10
"""With fewer points, principal components are drawn in place of t-SNE or UMAP."""

COMPONENTS = 50
"""Principal components that neighbours are sought in (van der Maaten and Hinton 2008, section 4)."""

Rows = NDArray[np.float32]
Points = NDArray[np.float32]


def choose(method: str) -> str:
    """Return the method that `auto` means here: UMAP where it is installed, or else t-SNE.

    Raises:
        UserError: UMAP was asked for and is not installed.
    """
    has_umap = importlib.util.find_spec("umap") is not None
    if method == "umap" and not has_umap:
        raise UserError("report: --map umap needs UMAP; pip install umap-learn, or give --map tsne")
    if method == "auto":
        return "umap" if has_umap else "tsne"
    return method


def project(embeddings: Rows, method: str, seed: int = 0) -> tuple[Points, str]:
    """Return points (N, 2) for embeddings (N, D), and how they were made.

    Embeddings are scaled to length 1 first, because scores are cosines; then centred.

    Args:
        embeddings: finite.
        method: one of `METHODS` but ``auto``.
        seed: of t-SNE or UMAP.
    """
    from sklearn.decomposition import PCA

    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    x = x - x.mean(0)
    count = min(COMPONENTS, *x.shape)
    if count < 2:
        return np.pad(x[:, :1], ((0, 0), (0, 1))).astype(np.float32), "first dimension"
    # A little noise, so that a collapsed model (all rows equal) can be drawn: as one heap.
    generator = np.random.default_rng(seed)
    x = x + generator.normal(scale=1e-6, size=x.shape).astype(np.float32)
    components = PCA(count, random_state=seed).fit_transform(x)
    if method == "pca" or len(x) < FEWEST_FOR_NEIGHBOURS:
        return components[:, :2], "principal components"
    if method == "umap":
        from umap import UMAP

        return UMAP(random_state=seed).fit_transform(components), "UMAP"
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(x) - 1) / 3)
    start = components[:, :2] / components[:, 0].std() * 1e-4
    tsne = TSNE(perplexity=perplexity, init=start, random_state=seed, n_jobs=1, max_iter=750)
    return tsne.fit_transform(components), f"t-SNE, perplexity {perplexity:.3g}"
