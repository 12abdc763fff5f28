"""Clusters of embeddings: how many, how large, how good.

How many, how large, how good without labels; NMI, ARI, purity with labels.

Labels serve this evaluation only: no clusterer sees them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics, parts
from speechssl.clustering.steps import check_filter, confidences, filtered, prepared
from speechssl.data.kaldi import digest
from speechssl.data.vectors.files import read_vectors
from speechssl.errors import UserError, writing

_SAMPLE, _MEMBERS = (
    10_000,
    20,
)  # utterances for the silhouette, which compares pairs; most of one cluster


_ALL_PAIRS = (
    "AffinityPropagation",
    "AgglomerativeClustering",
    "FeatureAgglomeration",
    "SpectralClustering",
)


def build(section: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The clusterer that ``{name: ..., settings}`` names, and all its settings.

    A name is a module of ``clustering/`` or the dotted path of any class with ``fit_predict``
    (``sklearn.cluster:Birch``).
    """
    name = str(section.get("name", ""))
    if ":" not in name:
        settings = parts.check("clustering", section, "clusterer")
        return parts.build("clustering", settings), settings
    written = {key: value for key, value in section.items() if key != "name"}
    try:
        made = parts.find("clustering", name)(**written)
    except TypeError as error:
        raise UserError(f"cluster: {name}: {error}") from error
    if not hasattr(made, "fit_predict"):
        raise UserError(f"cluster: {name} has no fit_predict; give a clusterer")
    return made, {"name": name, **written}


def _memory() -> float:
    """GB that this process may have: the machine's, or its container's where that is less."""
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(have, int(text) / 1e9) if text.isdigit() else have


def _fits(clusterer: Any, rows: int) -> None:
    """Refuse a clusterer of scikit-learn's that holds all pairs where they are more than the
    memory.
    """
    kind = type(clusterer).__name__
    need, have = 8 * rows**2 / 1e9, _memory()
    if kind in _ALL_PAIRS and need > have:
        raise UserError(
            f"cluster: {kind} holds the distances of all pairs, {need:,.0f} GB for {rows:,}"
            f" embeddings; this machine has {have:.0f}: take kmeans_ahc, which holds those of its"
            " centroids"
        )


def cluster(
    embeddings: str | Path,
    clusterer: Any,
    *,
    pca: float = 0.0,
    smallest: int = 1,
    largest: int = 0,
    share: float = 1.0,
    reference: Mapping[str, str] | None = None,
) -> tuple[list[str], NDArray[np.int64], dict[str, Any]]:
    """Cluster a file of embeddings.

    Args:
        clusterer: has ``fit_predict``. pca: see ``prepared``. smallest, largest, share: see
            ``filtered``.
        reference: utterance -> true class, to judge the clusters only.

    Returns:
        Ids (N,), clusters (N,), -1 for what is left out, and the figures of ``evaluate`` with
        seconds.
    """
    ids, matrix = read_vectors(embeddings)
    _fits(clusterer, len(matrix))
    check_filter(smallest, largest, share)
    _check_reference(ids.tolist(), reference)
    if not np.isfinite(matrix).all():
        raise UserError(f"cluster: {embeddings} holds numbers that are not finite; embed again")
    rows = prepared(matrix, pca)
    begun = time.perf_counter()
    try:
        labels = np.asarray(clusterer.fit_predict(rows), np.int64)
    except (
        TypeError,
        ValueError,
        MemoryError,
    ) as error:  # what a clusterer of somebody else's says
        raise UserError(
            f"cluster: {type(clusterer).__name__}: {error or 'not enough memory'}"
        ) from error
    seconds = time.perf_counter() - begun
    labels = filtered(labels, confidences(rows, labels), smallest, largest, share)
    figures = evaluate(ids.tolist(), rows, labels, reference)
    return ids.tolist(), labels, {"seconds": round(seconds, 2), **figures}


def write(out: Path, ids: Sequence[str], labels: NDArray[np.int64], figures: Any) -> None:
    """Write ``clusters.json`` and, last and at once, ``utt2cluster`` (`utterance cNNNNNN`).

    The digest in the first tells that the second is a clusterer's work and nobody's labels.
    """
    pairs = sorted(
        (name, label) for name, label in zip(ids, labels.tolist(), strict=True) if label >= 0
    )
    lines = "".join(f"{name} c{label:06d}\n" for name, label in pairs)
    temporary = out / ".utt2cluster.tmp"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        temporary.write_text(lines, encoding="utf-8", errors="surrogateescape")
        written = {**figures, "sha256": digest(temporary)}
        (out / "clusters.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, out / "utt2cluster")


def evaluate(
    ids: Sequence[str],
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    reference: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of a clustering.

    Args:
        ids: (N,) utterances. rows: (N, D) unit vectors that were clustered. labels: (N,), -1 = left
            out.
        reference: utterance -> true class, for nmi, ari and purity over the utterances that are
            kept.

    Returns:
        utterances, kept, clusters, sizes (smallest, median, largest), cohesion (mean cosine to the
        own cluster's mean), silhouette (cosine, of a sample), and with a reference nmi, ari, purity
        (0 to 1) and classes.

    Raises:
        UserError: nothing is kept, or the reference lacks an utterance.
    """
    kept = labels >= 0
    if not kept.any():
        raise UserError(
            "cluster: nothing is left after filtering; relax smallest, largest or share"
        )
    sizes = np.bincount(labels[kept])
    sizes = sizes[sizes > 0]
    found: dict[str, Any] = {
        "utterances": len(labels),
        "kept": int(kept.sum()),
        "clusters": len(sizes),
        "sizes": [int(sizes.min()), float(np.median(sizes)), int(sizes.max())],
        "cohesion": float(confidences(rows, labels)[kept].mean()),
        "silhouette": _silhouette(rows[kept], labels[kept], seed),
        "labels_used": "none",
    }
    if reference is not None:
        _check_reference([name for name, keep in zip(ids, kept, strict=True) if keep], reference)
        truth = np.unique(
            [reference[n] for n, keep in zip(ids, kept, strict=True) if keep], return_inverse=True
        )[1]
        guess = labels[kept]
        found |= {
            "nmi": metrics.nmi(truth, guess),
            "ari": metrics.ari(truth, guess),
            "purity": metrics.purity(truth, guess),
            "classes": int(truth.max() + 1),
        }
    return found


def _check_reference(ids: Sequence[str], reference: Mapping[str, str] | None) -> None:
    missing = [] if reference is None else [name for name in ids if name not in reference]
    if missing:
        raise UserError(
            f"cluster: the reference lacks {len(missing)} utterances, as {missing[0]!r}; of these"
            " data?"
        )


def _silhouette(rows: NDArray[np.float32], labels: NDArray[np.int64], seed: int) -> float | None:
    """Mean silhouette with cosine distances; None where it is not defined.

    Of many rows, those of random clusters, at most ``_MEMBERS`` each: a sample of rows alone would
    leave most clusters with one.
    """
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(seed)
    chosen = np.arange(len(rows))
    if len(rows) > _SAMPLE:
        order = rng.permutation(len(rows))
        order = order[np.argsort(labels[order], kind="stable")]
        place = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
        some = rng.permutation(int(labels.max()) + 1)[: _SAMPLE // _MEMBERS]
        chosen = order[(place < _MEMBERS) & np.isin(labels[order], some)]
    count = len(np.unique(labels[chosen]))
    if not 2 <= count < len(chosen):
        return None
    return float(silhouette_score(rows[chosen], labels[chosen], metric="cosine"))


PART = evaluate
