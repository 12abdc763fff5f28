"""A map of embeddings as a picture: a colour and a shape for each label, the largest ones named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from speechssl.drawing.style import COLOURS, panels, plain, save
from speechssl.report.page import projection

MARKERS = "osD^Pv"
"""A label is one of the six colours of all plots and one of these shapes: 36 look different."""

MOST_NAMED = 20
"""Labels that the legend names, the most frequent ones; of more, none would be found in it."""


def map_plot(
    embeddings: ArrayLike,
    labels: Sequence[str] | None = None,
    path: str | Path | None = None,
    *,
    title: str = "Map of the embeddings",
    method: str = "tsne",
    seed: int = 0,
) -> Figure:
    """Draw embeddings (N, D) as points of a plane in which neighbours stay neighbours.

    Distances and directions of such a map have no unit, so it has no axes.

    Args:
        embeddings: (N, D), finite.
        labels: N, of the points; None: all are alike.
        path: file to write; None: the figure is only returned.
        title: of the figure; how the map was made is added.
        method: `tsne`, `umap`, `pca` or `auto` (`report.page.projection`).
        seed: of the method.
    """
    points, how = projection.project(
        np.asarray(embeddings, np.float32), projection.choose(method), seed
    )
    figure, (axes,) = panels((6.6, 5.2), 1)
    draw_map(axes, points, [""] * len(points) if labels is None else labels)
    axes.set_title(f"{plain(title)} ({how})")
    if labels is not None and len(set(labels)) <= MOST_NAMED:
        figure.legend(loc="outside right center", frameon=False, fontsize="small")
    if path is not None:
        save(figure, path)
    return figure


def draw_map(axes: Axes, points: NDArray[np.float32], labels: Sequence[str]) -> None:
    """Draw points (N, 2), one colour and shape a label, without axes.

    Args:
        axes: to draw in.
        points: (N, 2).
        labels: N names; the legend of the axes has them with their counts.
    """
    label = np.array([str(one) for one in labels])
    counts = Counter(label.tolist())
    for place, name in enumerate(sorted(counts)):
        axes.plot(
            *points[label == name].T,
            MARKERS[place // len(COLOURS) % len(MARKERS)],
            color=COLOURS[place % len(COLOURS)],
            ms=5,
            mew=0,
            alpha=0.9,
            label=f"{plain(name)} ({counts[name]})",
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
