"""Sizes and cohesion of the clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.clustering.steps import confidences, prepared
from speechssl.data.vectors.files import read_vectors
from speechssl.data.vectors.folder import VectorFolder, is_folder
from speechssl.data.vectors.format import Vectors
from speechssl.report.page.blocks import Block, Chart, Trace, plotly_text
from speechssl.report.page.drawing import COLOURS, thinned
from speechssl.report.page.material import Material, clusters_of
from speechssl.report.page.section import Section

MOST_POINTS = 2000
MOST_FILES = 24
"""Files of embeddings that are looked at for those of a clustering."""

MOST_OF_A_FOLDER = 1_000_000
"""Embeddings of a folder up to which their cohesion is drawn."""

FEW = 40
"""So many clusters or fewer are drawn as bars, each with its name."""


def build(material: Material) -> Sequence[Block]:
    """Return a chart of sizes and one of cohesion over size, a menu for several clusterings."""
    sizes: dict[str, list[Trace]] = {}
    cohesion: dict[str, list[Trace]] = {}
    for name, cluster_of in clusters_of(material).items():
        sizes[name] = _sizes(cluster_of)
        embeddings = _embeddings(material, name, cluster_of)
        if embeddings is not None:
            cohesion[name] = _cohesion(*embeddings, cluster_of)
    if not sizes:
        return []
    if not cohesion:
        return [_chart_of_sizes(sizes)]
    return [_chart_of_sizes(sizes), _chart_of_cohesion(cohesion)]


def _chart_of_sizes(sizes: dict[str, list[Trace]]) -> Chart:
    return Chart(
        "Members of each cluster",
        "Largest first. Many tiny clusters are outliers, one huge cluster is a collapse.",
        sizes,
        {
            "xaxis": {"title": {"text": "cluster"}, "type": "category", "nticks": 12},
            "yaxis": {"title": {"text": "members"}, "rangemode": "tozero"},
        },
        height=320,
        width="half",
    )


def _chart_of_cohesion(cohesion: dict[str, list[Trace]]) -> Chart:
    return Chart(
        "Cohesion of each cluster",
        "Mean cosine of the members to the cluster's mean, over its size; 1: all alike.",
        cohesion,
        {
            "xaxis": {"title": {"text": "members"}},
            "yaxis": {"title": {"text": "cohesion"}},
            "hovermode": "closest",
        },
        height=320,
        width="half",
    )


def _sizes(cluster_of: Mapping[str, str]) -> list[Trace]:
    names, counts = np.unique(list(cluster_of.values()), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order[thinned(order, MOST_POINTS)]
    shown = [plotly_text(str(names[i])) for i in kept]
    trace: Trace = {
        "x": shown,
        "y": counts[kept],
        "hovertemplate": "%{x}: %{y} members<extra></extra>",
        "showlegend": False,
    }
    if len(names) <= FEW:
        trace |= {"type": "bar", "marker": {"color": COLOURS[0]}}
    else:
        line = {"color": COLOURS[0], "width": 2, "shape": "hv"}
        trace |= {"type": "scatter", "mode": "lines", "fill": "tozeroy", "line": line}
    return [trace]


def _embeddings(
    material: Material, name: str, cluster_of: Mapping[str, str]
) -> tuple[NDArray[np.str_], NDArray[np.float32]] | None:
    """Return ids and embeddings of a clustering, if a file of the experiments has them all.

    That of a round's own folder comes first.
    """
    folder = next(file.path.parent.parent for file in material.clusters if file.name == name)
    paths = [file.path for file in material.embeddings[:MOST_FILES]]
    paths.sort(key=lambda path: path.parent != folder)
    for path in paths:
        read = material.attempt(partial(_read, path))
        if read is not None and cluster_of.keys() <= set(read[0].tolist()):
            return read if np.isfinite(read[1]).all() else None
    return None


def _read(path: Path) -> Vectors | None:
    """Read embeddings; None for a folder of more than a page should hold in memory."""
    if is_folder(path) and VectorFolder(path).rows > MOST_OF_A_FOLDER:
        return None
    return read_vectors(path)


def _cohesion(
    ids: NDArray[np.str_], matrix: NDArray[np.float32], cluster_of: Mapping[str, str]
) -> list[Trace]:
    names, codes = np.unique([cluster_of.get(one, "") for one in ids.tolist()], return_inverse=True)
    labels = codes.astype(np.int64)
    if names[0] == "":
        names = names[1:]
        labels -= 1
    cosines = confidences(prepared(matrix), labels)
    kept = labels >= 0
    counts = np.bincount(labels[kept], minlength=len(names))
    means = np.bincount(labels[kept], cosines[kept], len(names)) / np.maximum(counts, 1)
    places = thinned(counts, MOST_POINTS)
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "showlegend": False,
            "x": counts[places],
            "y": np.round(means[places], 4),
            "text": [plotly_text(str(names[i])) for i in places],
            "marker": {"color": COLOURS[0], "size": 8, "opacity": 0.7},
            "hovertemplate": "%{text}: %{x} members, cohesion %{y:.3f}<extra></extra>",
        }
    ]


SECTION = Section("Clusters", 80, build)
