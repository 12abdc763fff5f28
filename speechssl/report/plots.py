"""Plots of verification scores and embeddings, drawn without a display and without pyplot's global
state.

The file's suffix names the format (png, svg, pdf).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from speechssl import metrics
from speechssl.errors import UserError
from speechssl.files import atomic_write
from speechssl.text import printable

Scored = tuple[ArrayLike, ArrayLike]
"""Scores (T,) and targets (T,)."""

TICKS = (0.1, 0.5, 2, 5, 10, 20, 40, 60, 80, 95)
"""Percent, on the probit axes."""

EDGES = (0.0005, 0.97)
"""Lowest and highest rate in the DET plot."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito: safe for the colour-blind."""


def det_plot(systems: Mapping[str, Scored], path: str | Path) -> None:
    """Draw the detection error trade-off of each system, on probit axes; a circle marks the EER.

    Args:
        systems: name -> scores (T,) and targets (T,).
        path: file to write.
    """
    figure, axes = _figure((5.6, 5.2))
    for colour, (name, (scores, target)) in zip(_colours(len(systems)), systems.items()):
        x, y = _det_points(scores, target)
        axes.plot(x, y, color=colour, lw=1.6)
        eer = metrics.eer(scores, target)
        place = ndtri(np.clip(eer / 100, EDGES[0], EDGES[1]))
        label = f"{plain(name)}: EER {eer:.2f} %"
        axes.plot(place, place, "o", color=colour, mfc="white", ms=6, label=label)
    _probit_axes(axes)
    axes.set(title="Detection error trade-off")
    axes.legend(loc="upper right", frameon=False)
    save(figure, path)


def _det_points(scores: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """Return the curve as probits (2, P), without points that would not be told apart."""
    fpr, fnr, _ = metrics.det_curve(scores, target)
    # A rate of 0 has no probit: clipped, it lies outside the picture.
    curve = ndtri(np.clip([fpr, fnr], 1e-6, 1 - 1e-6))
    has_moved = np.diff(np.round(curve, 3), axis=1).any(axis=0)
    points: NDArray[np.float64] = curve[:, np.concatenate([[True], has_moved])]
    return points


def _probit_axes(axes: Axes) -> None:
    """Set limits, ticks and labels of a DET plot, and draw the diagonal."""
    limits = (float(ndtri(EDGES[0])), float(ndtri(EDGES[1])))
    axes.plot(limits, limits, color="0.75", lw=0.8, zorder=0)
    places = [float(ndtri(tick / 100)) for tick in TICKS]
    names = [f"{tick:g}" for tick in TICKS]
    axes.xaxis.set_ticks(places, names)
    axes.yaxis.set_ticks(places, names)
    axes.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel="false positives (%)",
        ylabel="false negatives (%)",
    )


def score_histogram(
    scores: ArrayLike, target: ArrayLike, path: str | Path, title: str = "Scores"
) -> None:
    """Draw histograms, each of area 1, of target and non-target scores, and the EER's threshold.

    Args:
        scores: (T,).
        target: (T,), true for target trials.
        path: file to write.
        title: of the figure.
    """
    scores = np.asarray(scores, float)
    target = np.asarray(target, bool)
    eer, threshold = metrics.eer_point(scores, target)
    figure, axes = _figure((6.4, 3.8))
    low = float(scores.min())
    high = float(scores.max())
    if low == high:
        low -= 0.5
        high += 0.5
    edges = np.linspace(low, high, 81).tolist()
    kinds = ((COLOURS[1], ~target, "non-target"), (COLOURS[0], target, "target"))
    for colour, kind, name in kinds:
        label = f"{name} ({int(kind.sum()):,} trials)"
        axes.hist(scores[kind], edges, density=True, color=colour, alpha=0.55, label=label)
    label = f"EER {eer:.2f} % at {threshold:.3g}"
    axes.axvline(threshold, color="0.25", lw=1, ls="--", label=label)
    axes.set(xlabel="score", ylabel="density", title=title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    save(figure, path)


def spectrum_plot(systems: Mapping[str, ArrayLike], path: str | Path) -> None:
    """Draw the singular values of centred embeddings, the first one at 1: an early fall is a
    collapse.

    Args:
        systems: name -> embeddings (N, D).
        path: file to write.
    """
    figure, axes = _figure((6.4, 3.8))
    for colour, (name, embeddings) in zip(_colours(len(systems)), systems.items()):
        matrix = np.asarray(embeddings, np.float64)
        values = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)
        if values[0] > 0:
            values = values / values[0]
        numbers = np.arange(1, len(values) + 1)
        axes.semilogy(numbers, np.maximum(values, 1e-8), color=colour, lw=1.6, label=plain(name))
    axes.set(xlabel="dimension", ylabel="singular value / largest")
    axes.set(title="Spectrum of the embeddings")
    axes.set_ylim(top=2)
    axes.legend(frameon=False)
    save(figure, path)


def size_plot(labels: ArrayLike, path: str | Path) -> None:
    """Draw the number of members of each cluster, largest first, on logarithmic axes.

    Args:
        labels: (N,) cluster of each utterance, whole numbers from 0.
        path: file to write.
    """
    figure, axes = _figure((6.4, 3.8))
    sizes = np.sort(np.bincount(np.asarray(labels, np.int64)))[::-1]
    sizes = sizes[sizes > 0]
    median = float(np.median(sizes))
    axes.loglog(np.arange(1, len(sizes) + 1), sizes, color=COLOURS[0], lw=1.6)
    axes.axhline(median, color="0.25", lw=1, ls="--", label=f"median {median:g}")
    axes.set(xlabel="cluster", ylabel="members", title=f"{len(sizes)} clusters")
    axes.legend(frameon=False)
    save(figure, path)


def confusion_plot(labels: list[str], counts: ArrayLike, path: str | Path) -> None:
    """Draw a confusion table, shaded by the share of the true class.

    Args:
        labels: C class names.
        counts: (C, C), rows true and columns predicted.
        path: file to write.
    """
    table = np.asarray(counts, float)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = 1.8 + 0.55 * len(labels)
    figure, axes = _figure((side, side))
    axes.grid(False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        colour = "white" if share[row, column] > 0.6 else "0.2"
        text = axes.text(column, row, f"{count:g}", color=colour, fontsize=8)
        text.set(ha="center", va="center")
    ticks = range(len(labels))
    names = [plain(label) for label in labels]
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")
    save(figure, path)


def shared_axes(inches: tuple[float, float], count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` axes side by side that share the vertical one."""
    figure = Figure(figsize=inches, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, sharey=True, squeeze=False)
    return figure, list(axes[0])


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all, in a folder that is made if need be.

    Raises:
        UserError: the file cannot be written, or its suffix names no format.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:  # a link that lies there is replaced, not followed
            figure.savefig(temporary)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: cannot be drawn ({error}); choose a folder that can be written and .png"
        ) from None


def plain(name: str) -> str:
    """Return a name as matplotlib shows it: text, not mathematics (`$x$`)."""
    return printable(name).replace("$", r"\$")


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _figure(inches: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure with one axes, in the style of all plots here."""
    figure = Figure(figsize=inches, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    return figure, axes
