"""Spherical k-means: cosine similarity, centroids on the unit sphere, all on matrix products.

Dhillon and Modha 2001. Embeddings are L2-normalised here; one iteration assigns every one of them
to the centroid of the largest cosine (in tiles, so memory stays at one tile) and sets each centroid
to the normalised mean of its members. A centroid without members is moved to the embedding whose
cosine with its own centroid is lowest. The initial centroids are those of k-means++, the best of
several tries (`starts.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from speechssl.clustering.nearest import nearest
from speechssl.clustering.starts import plus_plus
from speechssl.errors import UserError
from speechssl.interfaces import Clusterer
from speechssl.progress import counted

if TYPE_CHECKING:
    from speechssl.clustering.streamed import Fitted, Streamed

ROWS_OF_A_TRY = 20_000
"""Rows that a try looks at, at least (or all); and ten a cluster."""

LITTLE_WORK = 2_000_000
"""Rows times clusters up to which all tries are made."""

MOST_TRIES = 10

SHORT_RUN = 5
"""Iterations of k-means after which tries are compared."""


class SphericalKMeans(Clusterer):
    """K clusters of embeddings.

    Args:
        n_clusters: K, their number.
        max_iter: iterations at most; fewer where no embedding changes its cluster any more, or by
            ``tol``.
        tol: stop where an iteration raises the mean cosine by less than this.
        init: of the centroids: ``k-means++``, or K ``random`` embeddings.
        n_init: tries of k-means++, of which the best is kept; 0: 10, fewer where N and K are large.
        seed: of the initial centroids.
        sample_size: fit on so many embeddings, drawn at random; 0 = all. All of them are assigned
            in the end.

    Attributes:
        centroids: (K, D) float32 of unit length, after a fit.
        objective: mean cosine of an embedding with its centroid, after a fit.

    Raises:
        UserError: a setting is out of its range.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "clusters": "n_clusters",
        "iterations": "max_iter",
        "batch": "sample_size",
    }

    def __init__(
        self,
        *,
        n_clusters: int = 100,
        max_iter: int = 20,
        tol: float = 1e-4,
        init: Literal["k-means++", "random"] = "k-means++",
        n_init: int = 0,
        seed: int = 0,
        sample_size: int = 0,
    ) -> None:
        if n_clusters < 1:
            raise UserError(f"kmeans: n_clusters={n_clusters}; give at least 1")
        if n_init < 0 or tol < 0:
            raise UserError(f"kmeans: n_init={n_init}, tol={tol:g}; give 0 or more")
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.init = init
        self.n_init = n_init
        self.seed = seed
        self.sample_size = sample_size
        self.centroids = np.zeros((0, 0), dtype=np.float32)
        self.objective = 0.0

    def fit_predict(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return clusters (N,) of embeddings (N, D).

        Raises:
            UserError: fewer embeddings than clusters.
        """
        x = F.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
        generator = torch.Generator().manual_seed(self.seed)
        sample = x
        if 0 < self.sample_size < len(x):
            order = torch.randperm(len(x), generator=generator)
            sample = x[order[: self.sample_size].sort().values]
        check_count(len(sample), self.n_clusters)
        start = None
        if self.init == "k-means++":
            start = best_start(sample, self.n_clusters, self.n_init, generator)
        centroids, labels, cosines = spherical_kmeans(
            sample, self.n_clusters, self.max_iter, generator, start, self.tol
        )
        if sample is not x:
            labels, cosines = nearest(x, centroids)
        self.centroids = centroids.numpy()
        self.objective = float(cosines.mean())
        return labels.numpy()

    def fit_streamed(self, streamed: Streamed) -> Fitted:
        """Fit on embeddings that are read a block at a time, by one process or several.

        Raises:
            UserError: fewer embeddings than clusters, or `sample_size`, which goes with
                embeddings in memory.
        """
        from speechssl.clustering.streamed import fit_kmeans

        if self.sample_size:
            raise UserError("kmeans: sample_size goes with a file of embeddings; leave it out")
        fitted = fit_kmeans(
            streamed,
            self.n_clusters,
            max_iter=self.max_iter,
            tol=self.tol,
            init=self.init,
            n_init=self.n_init,
            seed=self.seed,
        )
        self.centroids = fitted.centroids.numpy()
        self.objective = fitted.objective
        return fitted


def check_count(rows: int, n_clusters: int) -> None:
    """Raise UserError where there are fewer embeddings than clusters."""
    if rows < n_clusters:
        raise UserError(
            f"kmeans: {rows} embeddings cannot make {n_clusters} clusters; lower n_clusters"
            " (kmeans_ahc: n_centroids)"
        )


@torch.no_grad()
def spherical_kmeans(
    x: Tensor,
    n_clusters: int,
    max_iter: int,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    tol: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster unit vectors.

    Args:
        x: (N, D) unit vectors.
        n_clusters: K, their number.
        max_iter: iterations at most.
        generator: for the initial centroids; not used where ``start`` gives them.
        start: (K, D) initial centroids; None: K random rows of ``x``.
        tol: stop where an iteration raises the mean cosine by less than this.

    Returns:
        Centroids (K, D), labels (N,), and the cosine of each row with its centroid (N,).

    Raises:
        UserError: fewer rows than clusters.
    """
    check_count(len(x), n_clusters)
    if start is None:
        order = torch.randperm(len(x), generator=generator)
        centroids = x[order[:n_clusters].to(x.device)].clone()
    else:
        centroids = F.normalize(start, dim=1)
    labels, cosines = nearest(x, centroids)
    for _ in counted(range(max_iter), max_iter, "k-means", "iterations"):
        sums = torch.zeros_like(centroids).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=n_clusters)
        empty = torch.nonzero(counts == 0).flatten()
        if len(empty):
            worst = cosines.topk(len(empty), largest=False).indices
            sums[empty] = x[worst]
        centroids = F.normalize(sums, dim=1)
        before = labels
        objective_before = cosines.mean()
        labels, cosines = nearest(x, centroids)
        if torch.equal(before, labels):
            break
        if tol and cosines.mean() - objective_before < tol:
            break
    return centroids, labels, cosines


def best_start(
    x: Tensor, n_clusters: int, n_init: int, generator: torch.Generator | None
) -> Tensor:
    """Return centroids (K, D): the best of several tries after a short run of k-means each.

    A try looks at a random sample of ten rows a cluster, at least 20,000.

    Args:
        x: (N, D) unit vectors, at least K.
        n_clusters: K, their number.
        n_init: number of tries; 0: `tries`.
        generator: of all random numbers.
    """
    size = min(len(x), max(ROWS_OF_A_TRY, 10 * n_clusters))
    best = x[:0]
    highest = -2.0
    for _ in range(n_init or tries(len(x), size, n_clusters)):
        sample = x
        if size < len(x):
            rows = torch.randperm(len(x), generator=generator)[:size]
            sample = x[rows.sort().values.to(x.device)]
        start = plus_plus(sample, n_clusters, generator)
        centroids, _, cosines = spherical_kmeans(sample, n_clusters, SHORT_RUN, start=start)
        objective = float(cosines.mean())
        if objective > highest:
            highest = objective
            best = centroids
    return best


def tries(rows: int, sample: int, n_clusters: int) -> int:
    """Return how many tries are made, at least one.

    Ten where that is quick, else as many as take no longer than three iterations over all rows.

    Args:
        rows: N.
        sample: rows that a try looks at.
        n_clusters: K, their number.
    """
    if sample * n_clusters <= LITTLE_WORK:
        return MOST_TRIES
    passes_of_a_try = SHORT_RUN + 2  # k-means++, and the assignment before the first iteration
    return max(1, min(MOST_TRIES, 3 * rows // (passes_of_a_try * sample)))


PART = SphericalKMeans
