"""Clusters of a folder of embeddings, which no process holds whole: `clusters.py` for any number.

Under torchrun each process streams its share. The first one also holds a cluster and a cosine for
each embedding, 8 bytes, and writes the results.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.clustering.steps import check_filter, filtered
from speechssl.clustering.streamed import Fitted, Streamed, assign, gathered, picked
from speechssl.data.vectors.folder import VectorFolder
from speechssl.distributed import World
from speechssl.evaluation import clusters

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class FolderClusters:
    """The clusters of a folder of N embeddings, in its order.

    Attributes:
        labels: (N,) clusters, -1 for what is left out.
        nearness: (N,) cosine of each embedding with the mean of its cluster, before any was left out.
        figures: those of `clusters.evaluate`, with seconds, processes and iterations.
    """

    labels: Labels
    nearness: clusters.Rows
    figures: dict[str, Any]


def can_stream(clusterer: Any) -> bool:
    """True for a clusterer that can be fitted on embeddings a block at a time."""
    return hasattr(clusterer, "fit_streamed")


def cluster_folder(
    folder: VectorFolder,
    clusterer: Any,
    world: World,
    *,
    pca: float = 0.0,
    min_cluster_size: int = 1,
    max_cluster_size: int = 0,
    keep_fraction: float = 1.0,
    reference: Mapping[str, str] | None = None,
) -> FolderClusters | None:
    """Cluster a folder of embeddings, a share in each process.

    Args:
        folder: the embeddings.
        clusterer: `can_stream` is true of it.
        world: this process among the others.
        pca: see `clusters.cluster`, and so are the others.
        min_cluster_size: fewest members of a cluster.
        max_cluster_size: most members; 0: any number.
        keep_fraction: of each cluster's members, the most confident ones, that stays.
        reference: utterance -> true class, to judge the clusters only.

    Returns:
        In the first process: the clusters. In the others: None.

    Raises:
        UserError: as `clusters.cluster`.
    """
    check_filter(min_cluster_size, max_cluster_size, keep_fraction)
    started_at = time.perf_counter()
    streamed = Streamed(folder, world, pca)
    fitted: Fitted = clusterer.fit_streamed(streamed)
    labels, confidences = assign(streamed, fitted)
    all_labels = gathered(labels.astype(np.int32))
    all_confidences = gathered(confidences)
    if not world.first:
        return None
    confidence = np.concatenate(all_confidences)
    kept = filtered(
        np.concatenate(all_labels).astype(np.int64),
        confidence,
        min_cluster_size,
        max_cluster_size,
        keep_fraction,
    )
    seconds = time.perf_counter() - started_at

    def rows_of(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        blocks = (block for _, block in folder.blocks(with_ids=False))
        return streamed.prepare(picked(blocks, rows, folder.dim)).cpu().numpy()

    figures = clusters.figures_of(folder.ids(), kept, confidence, rows_of, reference)
    about = {"seconds": round(seconds, 2), "processes": world.size}
    return FolderClusters(kept, confidence, {**about, "iterations": fitted.iterations, **figures})


def examples(folder: VectorFolder, found: FolderClusters, count: int) -> str:
    """Return the table of `clusters.examples`; the folder's ids are read once more.

    Args:
        folder: of the embeddings.
        found: its clusters.
        count: how many of each cluster.
    """
    chosen = clusters.nearest_members(found.labels, found.nearness, count)
    wanted = set(chosen.tolist())
    name_of = {row: name for row, name in enumerate(folder.ids()) if row in wanted}
    names = [name_of[row] for row in chosen.tolist()]
    return clusters.example_lines(chosen, names, found.labels, found.nearness)


def write_folder(
    out: Path, folder: VectorFolder, labels: Labels, figures: Mapping[str, Any]
) -> None:
    """Write what `clusters.write` writes, with the lines of `utt2cluster` in the folder's order.

    Args:
        out: where to, made if need be.
        folder: of the embeddings, whose ids are read once more.
        labels: (N,), -1 for utterances that are left out.
        figures: for clusters.json.

    Raises:
        UserError: an id cannot stand in a line of `utt2cluster`, or the disk refused.
    """
    clusters.write_lines(out, zip(folder.ids(), labels.tolist(), strict=True), figures)
