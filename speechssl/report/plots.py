"""Plots of verification scores and embeddings, drawn without a display and without pyplot's global
state.

Each returns its figure, which a notebook shows. With a path it is written as well: the suffix names
the format (png, svg, pdf), and a .png has an .svg written beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from speechssl import metrics
from speechssl.drawing.style import COLOURS, legend_below, line_styles, panels, plain, save
from speechssl.report import det
from speechssl.report.bins import histogram
from speechssl.report.spectra import SMALLEST_VALUE, spectrum

Scored = tuple[ArrayLike, ArrayLike]
"""Scores (T,) and targets (T,)."""

Band = Sequence[Sequence[float] | None]
"""``[low, high]`` of the false negatives (0 to 1) at each of `det.BAND_FPR`, or None."""

FEW_CLUSTERS = 40
"""So many clusters or fewer are drawn as bars."""

MUCH = 30
"""Sizes are drawn on a logarithmic axis if the largest is so many times the smallest."""

VERY_MANY = 1000
"""So many clusters or more are drawn on a logarithmic axis."""

MOST_WRITTEN = 100
"""Classes of a confusion table that is written out; of more, nobody could read it."""

FITS_BELOW = 8
"""Letters of a class that fit below a column of the confusion table; longer names are written aslant."""


def det_plot(
    systems: Mapping[str, Scored],
    path: str | Path | None = None,
    bands: Mapping[str, Band] | None = None,
) -> Figure:
    """Draw the detection error trade-off of each system, on axes of normal deviates.

    A circle marks the EER, a square and a diamond the points of minDCF at a prior of 0.01 and 0.05.

    Args:
        systems: name -> scores (T,) and targets (T,).
        path: file to write; None: none.
        bands: name -> 95 % band of the curve, where it is known (`det.band`).
    """
    figure, (axes,) = panels((5.8, 6.2), 1)
    for style, (name, (scores, target)) in zip(line_styles(len(systems)), systems.items()):
        fpr, fnr, _ = metrics.det_curve(scores, target)
        x, y = _det_points(fpr, fnr)
        label = f"{plain(name)}: EER {metrics.curve_eer(fpr, fnr):.2f} %"
        axes.plot(x, y, **style, lw=1.6, label=label)
        _mark_points(axes, fpr, fnr, style["color"])
        if bands and name in bands:
            _draw_band(axes, bands[name], style["color"])
    _probit_axes(axes)
    axes.set(title="Detection error trade-off")
    for marker, label in (("o", "EER"), ("s", "minDCF 0.01"), ("D", "minDCF 0.05")):
        axes.plot([], [], marker, color="0.3", ls="none", mfc="white", ms=6, label=label)
    if bands:
        axes.fill_between([], [], [], color="0.5", alpha=0.3, lw=0, label="95 % band over speakers")
    legend_below(figure, 2)
    return _finished(figure, path)


def _mark_points(axes: Axes, fpr: metrics.Floats, fnr: metrics.Floats, colour: str) -> None:
    eer = metrics.curve_eer(fpr, fnr) / 100
    points = {
        "o": (eer, eer),
        "s": det.min_dcf_point(fpr, fnr, 0.01),
        "D": det.min_dcf_point(fpr, fnr, 0.05),
    }
    for marker, point in points.items():
        x, y = ndtri(np.clip(point, det.EDGES[0], det.EDGES[1]))
        axes.plot(x, y, marker, color=colour, mfc="white", ms=6, clip_on=False, zorder=3)


def _draw_band(axes: Axes, band: Band, colour: str) -> None:
    ends = np.array([[np.nan, np.nan] if row is None else row for row in band], float)
    low, high = ndtri(np.clip(ends, 1e-6, 1 - 1e-6)).T
    axes.fill_between(ndtri(det.BAND_FPR), low, high, color=colour, alpha=0.16, lw=0)


def _det_points(fpr: metrics.Floats, fnr: metrics.Floats) -> NDArray[np.float64]:
    """Return the curve as probits (2, P), without points that would not be told apart."""
    # A rate of 0 has no probit: clipped, it lies outside the picture.
    curve = ndtri(np.clip([fpr, fnr], 1e-6, 1 - 1e-6))
    has_moved = np.diff(np.round(curve, 3), axis=1).any(axis=0)
    points: NDArray[np.float64] = curve[:, np.concatenate([[True], has_moved])]
    return points


def _probit_axes(axes: Axes) -> None:
    """Set limits, ticks and labels of a DET plot, and draw the diagonal."""
    limits = (float(ndtri(det.EDGES[0])), float(ndtri(det.EDGES[1])))
    axes.plot(limits, limits, color="0.75", lw=0.8, zorder=0)
    places = [float(ndtri(tick / 100)) for tick in det.TICKS]
    names = [f"{tick:g}" for tick in det.TICKS]
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
    scores: ArrayLike, target: ArrayLike, path: str | Path | None = None, title: str = "Scores"
) -> Figure:
    """Draw histograms, each of area 1, of target and non-target scores, and the EER's threshold.

    Args:
        scores: (T,).
        target: (T,), true for target trials.
        path: file to write; None: none.
        title: of the figure.
    """
    scores = np.asarray(scores, float)
    target = np.asarray(target, bool)
    eer, threshold = metrics.eer_point(scores, target)
    figure, (axes,) = panels((6.4, 4.2), 1)
    edges, densities = histogram(scores, [~target, target])
    kinds = ((COLOURS[1], ~target, "non-target"), (COLOURS[0], target, "target"))
    for (colour, kind, name), density in zip(kinds, densities, strict=True):
        label = f"{name} ({int(kind.sum()):,} trials)"
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.4)
        axes.stairs(density, edges, color=colour, lw=1.4, label=label)
    label = f"EER {eer:.2f} % at {threshold:.3g}"
    axes.axvline(threshold, color="0.25", lw=1, ls="--", label=label)
    axes.set(xlabel="score", ylabel="density", title=title)
    legend_below(figure, 3)
    return _finished(figure, path)


def spectrum_plot(systems: Mapping[str, ArrayLike], path: str | Path | None = None) -> Figure:
    """Draw the singular values of centred embeddings, the first one at 1: an early fall is a
    collapse.

    Args:
        systems: name -> embeddings (N, D); min(N - 1, D) values are drawn (`spectra.spectrum`).
        path: file to write; None: none.
    """
    figure, (axes,) = panels((6.4, 4.2), 1)
    for style, (name, embeddings) in zip(line_styles(len(systems)), systems.items()):
        values = spectrum(embeddings)
        numbers = np.arange(1, len(values) + 1)
        shown = np.maximum(values, SMALLEST_VALUE)
        axes.semilogy(numbers, shown, **style, lw=1.6, label=plain(name))
    axes.set(xlabel="dimension", ylabel="singular value / largest")
    axes.set(title="Spectrum of the embeddings")
    axes.set_ylim(top=1.5)
    legend_below(figure, 2)
    return _finished(figure, path)


def size_plot(labels: ArrayLike, path: str | Path | None = None) -> Figure:
    """Draw the number of members of each cluster, largest first.

    A few clusters are bars with their numbers, many are a line. The axis of the sizes is logarithmic
    where they differ much, that of the clusters where there are very many.

    Args:
        labels: (N,) cluster of each utterance, whole numbers from 0.
        path: file to write; None: none.
    """
    figure, (axes,) = panels((6.4, 4.2), 1)
    sizes = np.bincount(np.asarray(labels, np.int64))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    sizes = sizes[order]
    median = float(np.median(sizes))
    places = np.arange(1, len(sizes) + 1)
    if len(sizes) <= FEW_CLUSTERS:
        axes.bar(places, sizes, color=COLOURS[0], width=0.8)
        axes.grid(False, axis="x")
        axes.set_xticks(places, [str(label) for label in order], fontsize="small")
    else:
        axes.step(places, sizes, where="mid", color=COLOURS[0], lw=1.6)
        if sizes[0] >= MUCH * sizes[-1]:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=0)
        if len(sizes) >= VERY_MANY:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
    axes.axhline(median, color="0.25", lw=1, ls="--", label=f"median {median:g}")
    axes.set(xlabel="cluster", ylabel="members", title=f"{len(sizes)} clusters")
    legend_below(figure, 1)
    return _finished(figure, path)


def confusion_plot(labels: list[str], counts: ArrayLike, path: str | Path | None = None) -> Figure:
    """Draw a confusion table: share of the true class and count, beside each class its F1.

    Args:
        labels: C class names; of more than `MOST_WRITTEN` the shares are drawn and nothing written.
        counts: (C, C), rows true and columns predicted.
        path: file to write; None: none.
    """
    table = np.asarray(counts, float)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    f1 = 2 * table.diagonal() / np.maximum(table.sum(0) + table.sum(1), 1)
    side = 2.2 + 0.72 * min(len(labels), MOST_WRITTEN)
    figure, (axes,) = panels((side + 0.6, side), 1)
    axes.grid(False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true", title=f"macro F1 {f1.mean():.2f}")
    if len(labels) <= MOST_WRITTEN:
        _write_classes(axes, [plain(label) for label in labels], f1)
        for (row, column), count in np.ndenumerate(table):
            colour = "white" if share[row, column] > 0.55 else "0.15"
            words = f"{100 * share[row, column]:.0f} %\n{count:g}"
            text = axes.text(column, row, words, color=colour, fontsize=8)
            text.set(ha="center", va="center")
    return _finished(figure, path)


def _write_classes(axes: Axes, names: Sequence[str], f1: NDArray[np.float64]) -> None:
    """Name the rows and columns of a confusion table, each row with its F1."""
    places = range(len(names))
    if max(map(len, names), default=0) > FITS_BELOW:
        axes.set_xticks(places, names, rotation=45, ha="right")
    else:
        axes.set_xticks(places, names)
    rows = [f"{name}\nF1 {value:.2f}" for name, value in zip(names, f1, strict=True)]
    axes.set_yticks(places, rows)


def _finished(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        save(figure, path)
    return figure
