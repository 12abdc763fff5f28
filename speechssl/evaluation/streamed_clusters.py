"""Clusters of a folder of embeddings, which no process holds whole: `clusters.py` for any number.

Under torchrun each process streams its share. The first one also holds a cluster and a cosine for
each embedding, 8 bytes, and writes the results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import files
from speechssl.clustering.steps import check_filter, filtered
from speechssl.clustering.streamed import Fitted, Streamed, assign, gathered
from speechssl.data.kaldi import digest
from speechssl.data.vectors.folder import VectorFolder
from speechssl.distributed import World
from speechssl.errors import UserError, writing
from speechssl.evaluation import clusters

Labels = NDArray[np.int64]


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
) -> tuple[Labels, dict[str, Any]] | None:
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
        In the first process: clusters (N,) in the order of the folder, -1 for what is left out, and
        the figures of `clusters.evaluate` with seconds and iterations. In the others: None.

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
    figures = _figures(folder, streamed, kept, confidence, reference)
    about = {"seconds": round(seconds, 2), "processes": world.size}
    return kept, {**about, "iterations": fitted.iterations, **figures}


def _figures(
    folder: VectorFolder,
    streamed: Streamed,
    labels: Labels,
    confidence: NDArray[np.float32],
    reference: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return what `clusters.evaluate` returns; the silhouette is that of a sample of rows."""
    kept = labels >= 0
    clusters.refuse_nothing(kept)
    sizes = np.bincount(labels[kept])
    chosen = np.flatnonzero(kept)[clusters.silhouette_rows(labels[kept], seed=0)]
    rows = streamed.prepare(rows_of(folder, chosen)).cpu().numpy()
    figures: dict[str, Any] = {
        "utterances": len(labels),
        "kept": int(kept.sum()),
        "clusters": len(sizes),
        "sizes": [int(sizes.min()), float(np.median(sizes)), int(sizes.max())],
        "cohesion": float(confidence[kept].mean(dtype=np.float64)),
        "silhouette": clusters.silhouette_of(rows, labels[chosen]),
        "labels_used": "none",
    }
    if reference is not None:
        names = [name for name, keep in zip(folder.ids(), kept, strict=True) if keep]
        figures |= clusters.against_reference(names, labels[kept], reference)
    return figures


def rows_of(folder: VectorFolder, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return some embeddings (n, D) of a folder, by their numbers, which ascend."""
    found = np.empty((len(rows), folder.dim), np.float32)
    first = 0
    for _, block in folder.blocks(with_ids=False):
        begin, end = np.searchsorted(rows, (first, first + len(block)))
        found[begin:end] = block[rows[begin:end] - first]
        first += len(block)
    return found


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
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(out / "utt2cluster") as temporary:
            with temporary.open(
                "w", encoding="utf-8", errors="surrogateescape", newline="\n"
            ) as file:
                for name, label in zip(folder.ids(), labels, strict=True):
                    if label < 0:
                        continue
                    if name.split() != [name]:
                        raise UserError(f"cluster: the id {name[:60]!r} has white space; rename it")
                    file.write(f"{name} c{label:06d}\n")
            written = {**figures, "sha256": digest(temporary)}
            files.write_text(out / "clusters.json", json.dumps(written, indent=2) + "\n")
