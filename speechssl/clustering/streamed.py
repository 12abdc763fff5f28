"""Spherical k-means over embeddings that fit no memory: each process streams its share, sums are added.

The algorithm is that of `kmeans.py`. A process holds the centroids, their sums, and one block of
rows. The start is drawn on a sample (k-means++, `kmeans.best_start`) by the first process; then every
iteration is one pass over the rows, after which sums (K, D) and counts (K,) are added over the
processes in float64. So the number of processes changes nothing but the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from speechssl import distributed
from speechssl.clustering.kmeans import ROWS_OF_A_TRY, best_start, check_count
from speechssl.clustering.nearest import nearest
from speechssl.clustering.steps import directions
from speechssl.errors import UserError
from speechssl.progress import progress

TRIES_IN_SAMPLE = 4
"""The sample of the start has so many times the rows of a try."""

MOST_MOVED = 256
"""Empty centroids that are moved after a pass; the rest wait for the next one."""

BLOCK_ROWS = 8192


class Blocks(Protocol):
    """Embeddings that are read a block at a time, such as `data.vectors.folder.VectorFolder`.

    Attributes:
        rows: N.
        dim: D.
    """

    rows: int
    dim: int

    def blocks(
        self, rows: int, share: tuple[int, int], *, with_ids: bool
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield ids and embeddings (n, D) of the consecutive rows of a share (rank, number)."""
        ...


@dataclass(frozen=True)
class Fitted:
    """Clusters that any number of embeddings can be assigned to.

    Attributes:
        centroids: (K, D) unit vectors, of which the nearest decides.
        cluster_of: (K,) int64, the cluster of each centroid.
        means: (C, D) sums of the members of each cluster, whose direction is their mean's.
        counts: (K,) embeddings of each centroid.
        objective: mean cosine of an embedding with its centroid.
        iterations: passes of k-means that were made.
    """

    centroids: Tensor
    cluster_of: Tensor
    means: Tensor
    counts: Tensor
    objective: float
    iterations: int


class Streamed:
    """This process's share of the embeddings, prepared, as unit rows.

    Args:
        source: the embeddings.
        world: this process among those that share them.
        pca: see `steps.prepared`.

    Attributes:
        rows: N of all shares.
        first: row at which the share begins.
        rows_here: rows of the share.

    Raises:
        UserError: numbers that are not finite, or more directions than there are.
    """

    def __init__(self, source: Blocks, world: distributed.World, pca: float = 0.0) -> None:
        self.source = source
        self.world = world
        self.rows = source.rows
        self.first = source.rows * world.rank // world.size
        self.rows_here = source.rows * (world.rank + 1) // world.size - self.first
        self._mean = self._mean_of_all()
        self._directions: NDArray[np.float32] | None = None
        if pca:
            self._directions = directions(self._covariance(), pca)

    def blocks(self) -> Iterator[Tensor]:
        """Yield unit rows (n, D') on the device of this process."""
        for block in self._raw():
            yield self.prepare(block)

    def prepare(self, block: NDArray[np.float32]) -> Tensor:
        """Return embeddings (n, D) less the mean, projected if asked for, at unit length."""
        return self._unit(block - self._mean)

    def _unit(self, centred: NDArray[np.float32]) -> Tensor:
        """Return centred embeddings (n, D) projected if asked for, at unit length, in their place."""
        if self._directions is not None:
            centred = centred @ self._directions
        rows = torch.from_numpy(centred).to(self.world.device)
        return rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(1e-12))

    def sample(self, count: int, seed: int) -> Tensor:
        """Return unit rows (n, D') drawn by lot among those of all processes, in their order.

        The other processes get what is theirs of it: only the first one's is whole.

        Args:
            count: n; or all, where there are no more.
            seed: of the lot.
        """
        if count >= self.rows:
            here = np.arange(self.rows_here)
        else:
            rng = np.random.default_rng(seed)
            drawn = np.sort(rng.choice(self.rows, count, replace=False, shuffle=False))
            begin, end = np.searchsorted(drawn, (self.first, self.first + self.rows_here))
            here = drawn[begin:end] - self.first
        found = gathered(picked(self._raw(), here, self.source.dim))
        # Changed in place: of 100,000 clusters the sample has 3 GB.
        sample = found[0] if len(found) == 1 else np.concatenate(found)
        del found
        sample -= self._mean
        return self._unit(sample)

    def _raw(self) -> Iterator[NDArray[np.float32]]:
        share = (self.world.rank, self.world.size)
        for _, block in self.source.blocks(BLOCK_ROWS, share, with_ids=False):
            yield block

    def _mean_of_all(self) -> NDArray[np.float32]:
        total = torch.zeros(self.source.dim, dtype=torch.float64)
        for block in self._raw():
            total += torch.from_numpy(block.sum(0, dtype=np.float64))
        total = added(total)
        if not bool(total.isfinite().all()):
            raise UserError("cluster: the embeddings hold numbers that are not finite; embed again")
        return (total / self.rows).numpy().astype(np.float32)

    def _covariance(self) -> NDArray[np.float64]:
        total = torch.zeros(self.source.dim, self.source.dim, dtype=torch.float64)
        for block in self._raw():
            centred = block - self._mean
            total += torch.from_numpy(centred.T @ centred).double()
        covariance: NDArray[np.float64] = (added(total) / max(1, self.rows - 1)).numpy()
        return covariance


def picked(
    blocks: Iterable[NDArray[np.float32]], rows: NDArray[np.int64], dim: int
) -> NDArray[np.float32]:
    """Return some rows (n, D) of embeddings that come a block at a time.

    Args:
        blocks: consecutive embeddings (m, D).
        rows: (n,) their numbers, which ascend.
        dim: D.
    """
    found = np.empty((len(rows), dim), np.float32)
    first = 0
    for block in blocks:
        begin, end = np.searchsorted(rows, (first, first + len(block)))
        found[begin:end] = block[rows[begin:end] - first]
        first += len(block)
    return found


def added(x: Tensor) -> Tensor:
    """Return the sum of `x` over processes, on the CPU."""
    return distributed.sum_over_ranks(x.to(_device())).cpu()


def gathered(mine: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the arrays of all processes in the first one, and `[mine]` in the others."""
    if distributed.world_size() == 1:
        return [mine]
    first = distributed.rank() == 0
    found: list[Any] | None = [None] * distributed.world_size() if first else None
    dist.gather_object(mine, found)
    return [mine] if found is None else found


def shared(x: Tensor) -> Tensor:
    """Return the first process's `x` in every process; shapes and types must be equal."""
    if distributed.world_size() == 1:
        return x
    moved = x.to(_device())
    dist.broadcast(moved, src=0)
    return moved.to(x.device)


def _device() -> torch.device:
    """Return where tensors must be for the backend of this run."""
    if distributed.world_size() > 1 and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@dataclass
class _Pass:
    """What a pass over a share finds.

    Attributes:
        sums: (K, D) float64, of the rows of each centroid.
        counts: (K,) float64.
        cosines: sum over rows of the cosine with the own centroid, a scalar.
        worst: (M,) the lowest of these cosines.
        worst_rows: (M, D) the rows that they are of.
    """

    sums: Tensor
    counts: Tensor
    cosines: Tensor
    worst: Tensor
    worst_rows: Tensor

    def reduce(self) -> None:
        """Add those of all processes; of the worst rows of all, keep the worst."""
        self.sums = added(self.sums)
        self.counts = added(self.counts)
        self.cosines = added(self.cosines)
        if distributed.world_size() == 1:
            return
        values = torch.from_numpy(np.concatenate(gathered(self.worst.numpy())))
        rows = torch.from_numpy(np.concatenate(gathered(self.worst_rows.numpy())))
        size = min(MOST_MOVED, int(added(torch.tensor(float(len(self.worst))))))
        kept_rows = torch.zeros(size, rows.shape[1])
        if distributed.rank() == 0:
            order = values.argsort(stable=True)[:size]
            kept_rows = rows[order].contiguous()
        self.worst_rows = shared(kept_rows)


@torch.no_grad()
def _pass_over(streamed: Streamed, centroids: Tensor) -> _Pass:
    count, dim = centroids.shape
    centroids = centroids.to(streamed.world.device)
    found = _Pass(
        torch.zeros(count, dim, dtype=torch.float64),
        torch.zeros(count, dtype=torch.float64),
        torch.zeros((), dtype=torch.float64),
        torch.zeros(0),
        torch.zeros(0, dim),
    )
    for block in streamed.blocks():
        labels, cosines = nearest(block, centroids)
        # Within a block in float32, as the rows are; over blocks in float64.
        sums = torch.zeros_like(centroids).index_add_(0, labels, block)
        found.sums += sums.cpu()
        found.counts += torch.bincount(labels, minlength=count).cpu()
        found.cosines += cosines.double().sum().cpu()
        lowest = cosines.topk(min(MOST_MOVED, len(cosines)), largest=False)
        values = torch.cat([found.worst, lowest.values.cpu()])
        rows = torch.cat([found.worst_rows, block[lowest.indices].cpu()])
        order = values.argsort(stable=True)[:MOST_MOVED]
        found.worst = values[order]
        found.worst_rows = rows[order]
    return found


def fit_kmeans(
    streamed: Streamed,
    n_clusters: int,
    *,
    max_iter: int = 20,
    tol: float = 1e-4,
    init: str = "k-means++",
    n_init: int = 0,
    seed: int = 0,
) -> Fitted:
    """Fit centroids; settings as those of `kmeans.SphericalKMeans`, which see.

    Raises:
        UserError: fewer embeddings than clusters.
    """
    check_count(streamed.rows, n_clusters)
    centroids = _start(streamed, n_clusters, init, n_init, seed)
    objective = -2.0
    iterations = 0
    show = None if distributed.rank() == 0 else False
    with progress(max_iter + 1, "kmeans", "pass", show=show) as count:
        while True:
            found = _pass_over(streamed, centroids)
            found.reduce()
            count(1)
            gain = float(found.cosines) / streamed.rows - objective
            objective += gain
            means = found.sums.clone()
            empty = torch.nonzero(found.counts == 0).flatten()[: len(found.worst_rows)]
            means[empty] = found.worst_rows[: len(empty)].double()
            still_empty = means.abs().sum(1) == 0
            means[still_empty] = centroids[still_empty].double()
            if iterations == max_iter or gain <= tol:
                break
            centroids = F.normalize(means, dim=1).float()
            iterations += 1
    return Fitted(
        centroids,
        torch.arange(n_clusters),
        means.float(),
        found.counts,
        objective,
        iterations,
    )


def merged(fitted: Fitted, merge: Callable[[NDArray[np.float64]], NDArray[np.int64]]) -> Fitted:
    """Return clusters of the centroids, which the first process makes.

    Args:
        fitted: centroids that are clusters of their own.
        merge: centroids (K, D) to the cluster (K,) of each.
    """
    cluster_of = torch.zeros(len(fitted.centroids), dtype=torch.int64)
    if distributed.rank() == 0:
        cluster_of = torch.from_numpy(merge(fitted.centroids.numpy().astype(np.float64)))
    cluster_of = shared(cluster_of)
    sums = torch.zeros(int(cluster_of.max()) + 1, fitted.means.shape[1])
    sums.index_add_(0, cluster_of, fitted.means)
    return replace(fitted, cluster_of=cluster_of, means=sums)


def _start(streamed: Streamed, n_clusters: int, init: str, n_init: int, seed: int) -> Tensor:
    """Return the initial centroids (K, D), which the first process draws on a sample."""
    size = TRIES_IN_SAMPLE * max(ROWS_OF_A_TRY, 10 * n_clusters)
    if init == "random":
        size = n_clusters
    sample = streamed.sample(size, seed)
    centroids = torch.zeros(n_clusters, sample.shape[1])
    if distributed.rank() == 0:
        generator = torch.Generator().manual_seed(seed)
        if init == "random":
            centroids = sample[:n_clusters].cpu()
        else:
            centroids = best_start(sample, n_clusters, n_init, generator).cpu()
    return shared(centroids.contiguous())


@torch.no_grad()
def assign(streamed: Streamed, fitted: Fitted) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the clusters (n,) of the rows of this share, and the cosines (n,) with their means."""
    device = streamed.world.device
    centroids = fitted.centroids.to(device)
    cluster_of = fitted.cluster_of.to(device)
    means = F.normalize(fitted.means, dim=1).to(device)
    # Small results that are kept among large blocks that are freed would keep their memory, too.
    labels = np.empty(streamed.rows_here, np.int64)
    confidences = np.empty(streamed.rows_here, np.float32)
    first = 0
    for block in streamed.blocks():
        clusters = cluster_of[nearest(block, centroids)[0]]
        here = slice(first, first + len(block))
        labels[here] = clusters.cpu().numpy()
        confidences[here] = (block * means[clusters]).sum(1).cpu().numpy()
        first += len(block)
    return labels, confidences
