"""Clusters of embeddings: how many, how large, how good.

Without labels: sizes, cohesion, silhouette. With labels: NMI, ARI, purity. Labels serve this
evaluation only: no clusterer sees them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import files, metrics, parts
from speechssl.clustering.steps import check_filter, confidences, filtered, prepared
from speechssl.compat import memory_bytes
from speechssl.data.kaldi import digest
from speechssl.data.vectors.files import read_vectors
from speechssl.errors import UserError, writing
from speechssl.evaluation.verification.sources import Embeddings, load
from speechssl.text import tsv_cell

SILHOUETTE_ROWS = 10_000
"""Utterances for the silhouette, which compares all pairs."""

_SILHOUETTE_MB = 64  # of distances at a time; scikit-learn's default is a gigabyte

SILHOUETTE_MEMBERS = 20
"""The most of them that come from one cluster."""

_ROWS_SORTED = 1 << 20  # at a time

COMPARES_ALL_PAIRS = (
    "AffinityPropagation",
    "AgglomerativeClustering",
    "FeatureAgglomeration",
    "SpectralClustering",
)
"""Clusterers of scikit-learn that hold the distances of all pairs."""

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


def build(section: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Build a clusterer.

    Args:
        section: ``{name: ..., settings}``. A name is a module of ``clustering/`` or the dotted path
            of any class with ``fit_predict`` (``sklearn.cluster:Birch``).

    Returns:
        The clusterer, and the section with all its settings.

    Raises:
        UserError: no such clusterer, or settings that it does not take.
    """
    name = str(section.get("name", ""))
    if ":" not in name:
        settings = parts.check("clustering", section, "clusterer")
        return parts.construct("clustering", settings), settings
    settings = {key: value for key, value in section.items() if key != "name"}
    try:
        clusterer = parts.find("clustering", name)(**settings)
    except TypeError as error:
        raise UserError(f"cluster: {name}: {error}") from error
    if not hasattr(clusterer, "fit_predict"):
        raise UserError(f"cluster: {name} has no fit_predict; give a clusterer")
    return clusterer, {"name": name, **settings}


def cluster(
    embeddings: Embeddings,
    clusterer: Any,
    *,
    pca: float = 0.0,
    min_cluster_size: int = 1,
    max_cluster_size: int = 0,
    keep_fraction: float = 1.0,
    reference: Mapping[str, str] | None = None,
    on_rows: Callable[[list[str], Rows, Labels], None] | None = None,
) -> tuple[list[str], Labels, dict[str, Any]]:
    """Cluster embeddings.

    Args:
        embeddings: a file, or ids (N,) and a matrix (N, D).
        clusterer: has ``fit_predict``.
        pca: see ``clustering.steps.prepared``.
        min_cluster_size: fewest members of a cluster (``clustering.steps.filtered``).
        max_cluster_size: most members of a cluster; 0: any number.
        keep_fraction: of each cluster's members, the most confident ones, that stays.
        reference: utterance -> true class, to judge the clusters only.
        on_rows: called with the ids, the unit vectors (N, D) and the clusters (N,).

    Returns:
        Ids (N,), clusters (N,), -1 for what is left out, and the figures of ``evaluate`` with
        seconds.

    Raises:
        UserError: embeddings that are not finite, a clusterer that needs more memory than there is
            or fails, nothing left after filtering, or a reference that lacks an utterance.
    """
    if isinstance(embeddings, str | Path):
        ids, matrix = read_vectors(embeddings)
    else:
        ids, matrix = load(embeddings, "the embeddings")
    names = ids.tolist()
    check_memory(clusterer, len(matrix))
    check_filter(min_cluster_size, max_cluster_size, keep_fraction)
    if reference is not None:
        _check_reference(names, reference)
    if not np.isfinite(matrix).all():
        raise UserError(f"cluster: {embeddings} holds numbers that are not finite; embed again")
    rows = prepared(matrix, pca)
    started_at = time.perf_counter()
    labels = _fit_predict(clusterer, rows)
    seconds = time.perf_counter() - started_at
    labels = filtered(
        labels, confidences(rows, labels), min_cluster_size, max_cluster_size, keep_fraction
    )
    figures = evaluate(names, rows, labels, reference)
    if on_rows is not None:
        on_rows(names, rows, labels)
    return names, labels, {"seconds": round(seconds, 2), **figures}


def _fit_predict(clusterer: Any, rows: Rows) -> Labels:
    """Return the clusters (N,) of rows (N, D); what a clusterer raises becomes a UserError."""
    try:
        return np.asarray(clusterer.fit_predict(rows), np.int64)
    except (TypeError, ValueError, MemoryError) as error:
        reason = error or "not enough memory"
        raise UserError(f"cluster: {type(clusterer).__name__}: {reason}") from error


def check_memory(clusterer: Any, count: int) -> None:
    """Refuse a clusterer of scikit-learn's whose distances of all pairs exceed the memory.

    Raises:
        UserError: the distances of ``count`` embeddings need more memory than this process may
            have.
    """
    kind = type(clusterer).__name__
    needed = 8 * count**2 / 1e9
    available = memory_bytes() / 1e9
    if kind in COMPARES_ALL_PAIRS and needed > available:
        raise UserError(
            f"cluster: {kind} holds the distances of all pairs, {needed:,.0f} GB for {count:,}"
            f" embeddings; this machine has {available:.0f}: take kmeans_ahc, which holds those of"
            " its centroids"
        )


def write(out: Path, ids: Sequence[str], labels: Labels, figures: Mapping[str, Any]) -> None:
    """Write ``clusters.json`` and, last, ``utt2cluster`` (lines `utterance cNNNNNN`, sorted).

    Args:
        out: the folder, made if need be.
        ids: (N,).
        labels: (N,), -1 for utterances that are left out.
        figures: for clusters.json.

    Raises:
        UserError: an id cannot stand in a line of `utt2cluster`, or the disk refused.
    """
    write_lines(out, sorted(zip(ids, labels.tolist(), strict=True)), figures)


def write_lines(out: Path, clusters: Iterable[tuple[str, int]], figures: Mapping[str, Any]) -> None:
    """Do what `write` says, in the order in which utterances and their clusters come.

    ``clusters.json`` holds a digest of ``utt2cluster``: with it, these are known to be clusters, not
    labels that a person gave.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(out / "utt2cluster") as temporary:
            with temporary.open(
                "w", encoding="utf-8", errors="surrogateescape", newline="\n"
            ) as file:
                for name, label in clusters:
                    if label < 0:
                        continue
                    if name.split() != [name]:
                        raise UserError(f"cluster: the id {name[:60]!r} has white space; rename it")
                    file.write(f"{name} c{label:06d}\n")
            written = {**figures, "sha256": digest(temporary)}
            files.write_text(out / "clusters.json", json.dumps(written, indent=2) + "\n")


def examples(ids: Sequence[str], rows: Rows, labels: Labels, count: int) -> str:
    """Return a table of the utterances nearest to the mean of their cluster, for people.

    Args:
        ids: (N,) utterances.
        rows: (N, D) unit vectors that were clustered.
        labels: (N,) clusters, -1: left out.
        count: how many of each cluster, the nearest first.

    Returns:
        Lines of cluster, its size, utterance and cosine to the mean; the largest cluster first.
    """
    nearness = confidences(rows, labels)
    chosen = nearest_members(labels, nearness, count)
    return example_lines(chosen, [ids[row] for row in chosen.tolist()], labels, nearness)


def nearest_members(labels: Labels, nearness: Rows, count: int) -> NDArray[np.int64]:
    """Return the rows nearest to the mean of their cluster, the largest cluster first.

    Memory is that of some million rows, whatever N is.

    Args:
        labels: (N,) clusters, -1: left out.
        nearness: (N,) cosines with the mean.
        count: how many of each cluster, the nearest first.
    """
    best = np.zeros(0, np.int64)
    for first in range(0, len(labels), _ROWS_SORTED):
        here = first + np.flatnonzero(labels[first : first + _ROWS_SORTED] >= 0)
        rows = np.concatenate([best, here])
        rows = rows[np.lexsort((-nearness[rows], labels[rows]))]
        place_in_cluster = np.arange(len(rows)) - np.searchsorted(labels[rows], labels[rows])
        best = rows[place_in_cluster < count]
    sizes = np.bincount(labels[labels >= 0])
    ordered: NDArray[np.int64] = best[np.argsort(-sizes[labels[best]], kind="stable")]
    return ordered


def example_lines(
    chosen: NDArray[np.int64], names: Sequence[str], labels: Labels, nearness: Rows
) -> str:
    """Return the table of `examples`: rows (n,) of `nearest_members`, and their ids."""
    sizes = np.bincount(labels[labels >= 0])
    lines = ["cluster\tsize\tutterance\tcosine\n"]
    for row, name in zip(chosen.tolist(), names, strict=True):
        label = int(labels[row])
        cells = [f"c{label:06d}", str(sizes[label]), tsv_cell(name), f"{nearness[row]:.4f}"]
        lines.append("\t".join(cells) + "\n")
    return "".join(lines)


def evaluate(
    ids: Sequence[str],
    rows: Rows,
    labels: Labels,
    reference: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the figures of a clustering.

    Args:
        ids: (N,) utterances.
        rows: (N, D) unit vectors that were clustered.
        labels: (N,) clusters, -1 = left out.
        reference: utterance -> true class, for nmi, ari and purity over the utterances that are
            kept.
        seed: of the sample for the silhouette.

    Returns:
        utterances, kept, clusters, sizes (smallest, median, largest), cohesion (mean cosine to the
        own cluster's mean), silhouette (cosine, of a sample), and with a reference nmi, ari, purity
        (0 to 1) and classes.

    Raises:
        UserError: nothing is kept, or the reference lacks an utterance.
    """
    return figures_of(ids, labels, confidences(rows, labels), rows.__getitem__, reference, seed)


def figures_of(
    ids: Iterable[str],
    labels: Labels,
    confidence: Rows,
    rows_of: Callable[[NDArray[np.intp]], Rows],
    reference: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what `evaluate` does, of embeddings that need not be in memory.

    Args:
        ids: N utterances, read only if there is a reference.
        labels: (N,) clusters, -1 = left out.
        confidence: (N,) cosines with the mean of the own cluster.
        rows_of: function of numbers of utterances (n,): their unit vectors (n, D).
        reference: utterance -> true class.
        seed: of the sample for the silhouette.
    """
    kept = labels >= 0
    if not kept.any():
        raise UserError(
            "cluster: nothing is left after filtering; relax min_cluster_size, max_cluster_size or"
            " keep_fraction"
        )
    sizes = np.bincount(labels[kept])
    sizes = sizes[sizes > 0]
    sample = np.flatnonzero(kept)[_silhouette_rows(labels[kept], seed)]
    figures: dict[str, Any] = {
        "utterances": len(labels),
        "kept": int(kept.sum()),
        "clusters": len(sizes),
        "sizes": [int(sizes.min()), float(np.median(sizes)), int(sizes.max())],
        "cohesion": float(confidence[kept].mean(dtype=np.float64)),
        "silhouette": _silhouette(rows_of(sample), labels[sample]),
        "labels_used": "none",
    }
    if reference is not None:
        kept_ids = [name for name, keep in zip(ids, kept, strict=True) if keep]
        figures |= _against_reference(kept_ids, labels[kept], reference)
    return figures


def _against_reference(
    ids: Sequence[str], labels: Labels, reference: Mapping[str, str]
) -> dict[str, Any]:
    """Return nmi, ari, purity (0 to 1) of clusters (N,), and the number of true classes."""
    _check_reference(ids, reference)
    classes, truth = np.unique([reference[name] for name in ids], return_inverse=True)
    return {
        "nmi": metrics.nmi(truth, labels),
        "ari": metrics.ari(truth, labels),
        "purity": metrics.purity(truth, labels),
        "classes": len(classes),
    }


def _check_reference(ids: Sequence[str], reference: Mapping[str, str]) -> None:
    missing = [name for name in ids if name not in reference]
    if missing:
        raise UserError(
            f"cluster: the reference lacks {len(missing)} utterances, such as {missing[0]!r}; is it"
            " of these data?"
        )


def _silhouette(rows: Rows, labels: Labels) -> float | None:
    """Return the mean silhouette with cosine distances; None where it is not defined."""
    from sklearn import config_context
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    with config_context(working_memory=_SILHOUETTE_MB):
        return float(silhouette_score(rows, labels, metric="cosine"))


def _silhouette_rows(labels: Labels, seed: int) -> NDArray[np.intp]:
    """Return the rows, in ascending order, on which the silhouette is measured."""
    if len(labels) <= SILHOUETTE_ROWS:
        return np.arange(len(labels))
    return np.sort(_sample(labels, np.random.default_rng(seed)))


def _sample(labels: Labels, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return rows of random clusters, at most `SILHOUETTE_MEMBERS` of each.

    A sample of rows alone would leave most clusters with one member.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    ordered = labels[order]
    place_in_cluster = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    clusters = rng.permutation(int(labels.max()) + 1)[: SILHOUETTE_ROWS // SILHOUETTE_MEMBERS]
    is_chosen = (place_in_cluster < SILHOUETTE_MEMBERS) & np.isin(ordered, clusters)
    chosen: NDArray[np.intp] = order[is_chosen]
    return chosen


PART = evaluate
