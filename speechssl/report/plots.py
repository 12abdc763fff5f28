"""Plots of verification scores and embeddings, drawn without a display and without pyplot's global
state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.special import ndtri

from speechssl import metrics
from speechssl.errors import UserError

Scored = tuple[ArrayLike, ArrayLike]
TICKS = (0.1, 0.5, 2, 5, 10, 20, 40, 60, 80, 95)  # percent, on the probit axes
EDGES = (0.0005, 0.97)  # of the DET plot
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: safe for the colour-blind


def det_plot(systems: Mapping[str, Scored], path: str | Path) -> None:
    """Detection error trade-off of each system: `{name: (scores (T,), target (T,))}`, on probit
    axes.

    A circle marks the equal error rate. The file's suffix names the format (png, svg, pdf).
    """
    figure, axes = _figure((5.6, 5.2))
    for colour, (name, (scores, target)) in zip(
        _colours(len(systems)), systems.items(), strict=True
    ):
        fpr, fnr, _ = metrics.det_curve(scores, target)
        curve = ndtri(
            np.clip([fpr, fnr], 1e-6, 1 - 1e-6)
        )  # a rate of 0 has no probit: it leaves the picture
        moved = np.diff(np.round(curve, 3), axis=1).any(axis=0)
        curve = curve[:, np.concatenate([[True], moved])]
        axes.plot(curve[0], curve[1], color=colour, lw=1.6)
        rate = metrics.eer(scores, target)
        place = ndtri(np.clip(rate / 100, EDGES[0], EDGES[1]))
        axes.plot(
            place, place, "o", color=colour, mfc="white", ms=6, label=f"{name}: EER {rate:.2f} %"
        )
    limits = ndtri(EDGES[0]), ndtri(EDGES[1])
    axes.plot(limits, limits, color="0.75", lw=0.8, zorder=0)
    for axis, label in ((axes.xaxis, "false positives (%)"), (axes.yaxis, "false negatives (%)")):
        axis.set_ticks(
            [float(ndtri(tick / 100)) for tick in TICKS], [f"{tick:g}" for tick in TICKS]
        )
        axis.set_label_text(label)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title="Detection error trade-off")
    axes.legend(loc="upper right", frameon=False)
    _save(figure, path)


def score_histogram(
    scores: ArrayLike, target: ArrayLike, path: str | Path, title: str = "Scores"
) -> None:
    """Histograms of area 1 of the scores (T,) of target and non-target trials, and the EER's
    threshold.
    """
    scores, target = np.asarray(scores, float), np.asarray(target, bool)
    rate, threshold = metrics.eer_point(scores, target)
    figure, axes = _figure((6.4, 3.8))
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high, 81) if high > low else np.linspace(low - 0.5, high + 0.5, 81)
    for colour, kind, label in (
        (COLOURS[1], ~target, "non-target"),
        (COLOURS[0], target, "target"),
    ):
        label = f"{label} ({int(kind.sum()):,} trials)"
        axes.hist(scores[kind], edges.tolist(), density=True, color=colour, alpha=0.55, label=label)
    axes.axvline(
        threshold, color="0.25", lw=1, ls="--", label=f"EER {rate:.2f} % at {threshold:.3g}"
    )
    axes.set(xlabel="score", ylabel="density", title=title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    _save(figure, path)


def spectrum_plot(systems: Mapping[str, ArrayLike], path: str | Path) -> None:
    """Singular values of centred embeddings (N, D), the first one at 1: an early fall is a
    collapse.
    """
    figure, axes = _figure((6.4, 3.8))
    for colour, (name, embeddings) in zip(_colours(len(systems)), systems.items(), strict=True):
        matrix = np.asarray(embeddings, np.float64)
        values = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)
        relative = values / values[0] if values[0] > 0 else values
        axes.semilogy(
            np.arange(1, len(values) + 1),
            np.maximum(relative, 1e-8),
            color=colour,
            lw=1.6,
            label=name,
        )
    axes.set(
        xlabel="dimension", ylabel="singular value / largest", title="Spectrum of the embeddings"
    )
    axes.set_ylim(top=2)
    axes.legend(frameon=False)
    _save(figure, path)


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _figure(inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=inches, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: str | Path) -> None:
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: cannot be drawn ({error}); choose a folder that can be written and .png"
        ) from None


def size_plot(labels: ArrayLike, path: str | Path) -> None:
    """Members of each cluster, largest first, on logarithmic axes: `labels` (N,) are whole numbers
    from 0.
    """
    figure, axes = _figure((6.4, 3.8))
    sizes = np.sort(np.bincount(np.asarray(labels, np.int64)))[::-1]
    sizes = sizes[sizes > 0]
    axes.loglog(np.arange(1, len(sizes) + 1), sizes, color=COLOURS[0], lw=1.6)
    axes.axhline(
        float(np.median(sizes)), color="0.25", lw=1, ls="--", label=f"median {np.median(sizes):g}"
    )
    axes.set(xlabel="cluster", ylabel="members", title=f"{len(sizes)} clusters")
    axes.legend(frameon=False)
    _save(figure, path)


def confusion_plot(labels: list[str], counts: ArrayLike, path: str | Path) -> None:
    """Counts (C, C), rows true and columns predicted, shaded by the share of the true class."""
    table = np.asarray(counts, float)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = 1.8 + 0.55 * len(labels)
    figure, axes = _figure((side, side))
    axes.grid(False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(labels)):
        for column in range(len(labels)):
            colour = "white" if share[row, column] > 0.6 else "0.2"
            axes.text(
                column,
                row,
                f"{table[row, column]:g}",
                ha="center",
                va="center",
                color=colour,
                fontsize=8,
            )
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=45, ha="right")
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="predicted", ylabel="true")
    _save(figure, path)
