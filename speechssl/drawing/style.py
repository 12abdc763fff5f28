"""The style of every picture that the package draws: colours, axes, legends, and how a figure is saved.

Figures are matplotlib's, made without pyplot: no display is needed, no global state is changed. In a
notebook, after `%matplotlib inline`, a figure is shown like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechssl import compat
from speechssl.errors import UserError
from speechssl.files import atomic_write
from speechssl.text import printable

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito: safe for the colour-blind."""

DASHES = ("-", "--", ":", "-.")
"""With more systems than colours, colours come again dashed."""

LONGEST_NAME = 60
"""Characters of a name that are drawn; the middle of longer ones is left out."""


def panels(
    inches: tuple[float, float], count: int, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes side by side, in the style of all plots here.

    Args:
        inches: width and height of the whole figure.
        count: of axes.
        share_y: whether they have one y axis.
    """
    figure = _empty_figure(inches)
    axes = list(figure.subplots(1, count, sharey=share_y, squeeze=False)[0])
    _tidy(axes)
    return figure, axes


def grid_of_panels(
    inches: tuple[float, float], count: int, columns: int
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes in rows of `columns`.

    Args:
        inches: width and height of one of them.
        count: of axes.
        columns: axes in a row.
    """
    rows = -(-count // columns)
    figure = _empty_figure((inches[0] * columns, inches[1] * rows + 0.4))
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    _tidy(axes)
    return figure, axes


def _empty_figure(inches: tuple[float, float]) -> Figure:
    figure = Figure(figsize=inches, dpi=120, layout="constrained")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    FigureCanvasAgg(figure)
    return figure


def _tidy(all_axes: list[Axes]) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", lw=0.6)
        axes.set_axisbelow(True)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all, in a folder that is made if need be.

    Beside a `.png` the same as `.svg` is written, for papers.

    Raises:
        UserError: the file cannot be written, or its suffix names no format.
    """
    file = Path(path)
    files = [file, file.with_suffix(".svg")] if file.suffix == ".png" else [file]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for one in files:
            with atomic_write(one) as temporary:  # a link that lies there is replaced, not followed
                compat.write_figure(figure, temporary)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: cannot be drawn ({error}); choose a folder that can be written and .png"
        ) from None


def plain(name: str) -> str:
    """Return a name as matplotlib shows it: text, not mathematics (`$x$`), and no longer than fits."""
    name = printable(name)
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME // 2]} ... {name[-LONGEST_NAME // 2 :]}"
    return name.replace("$", r"\$")


def line_styles(count: int) -> list[dict[str, Any]]:
    """Return colour and dash of each of so many lines."""
    styles: list[dict[str, Any]] = []
    for index in range(count):
        dash = DASHES[index // len(COLOURS) % len(DASHES)]
        styles.append({"color": COLOURS[index % len(COLOURS)], "linestyle": dash})
    return styles


LEGEND_INCHES = 0.5
"""Height of a legend that a figure has room for; for a higher one it grows."""


def legend_below(figure: Figure, columns: int) -> None:
    """Add a legend below the axes, where it hides nothing.

    Where names are long it has fewer columns, and for many of them the figure grows: neither are
    names cut off, nor do the axes shrink.

    Args:
        figure: whose artists have labels.
        columns: at most.
    """
    for count in range(columns, 0, -1):
        legend = figure.legend(
            loc="outside lower center", ncols=count, frameon=False, fontsize="small"
        )
        extent = legend.get_window_extent()
        if extent.width <= figure.bbox.width or count == 1:
            break
        legend.remove()
    inches = extent.height / figure.dpi
    if inches > LEGEND_INCHES:
        figure.set_figheight(figure.get_figheight() + inches - LEGEND_INCHES)
        figure.draw_without_rendering()  # the layout of the new size settles at the second drawing
