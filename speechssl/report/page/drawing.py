"""Colours, dashes and axes of the charts: the same for a system in every one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from speechssl.report.page.blocks import Trace, plotly_text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito: safe for the colour-blind; against white and black alike."""

DASHES = ("solid", "dash", "dot", "dashdot")
FEW_DECADES = 4
"""Of so many decades or fewer, a logarithmic axis names 1, 2 and 5."""


class Styles:
    """Gives each name a colour and a dash; the seventh name has the first colour, dashed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._place = {name: place for place, name in enumerate(dict.fromkeys(names))}

    def colour(self, name: str) -> str:
        """Return the colour of a name."""
        return COLOURS[self._place[name] % len(COLOURS)]

    def dash(self, name: str) -> str:
        """Return the dash of a name."""
        return DASHES[self._place[name] // len(COLOURS) % len(DASHES)]


def line(name: str, x: ArrayLike, y: ArrayLike, styles: Styles, **more: Any) -> Trace:
    """Return a line of a run or system; lines of one or two points get markers, to be visible."""
    return {
        "type": "scatter",
        "mode": "lines" if len(np.atleast_1d(x)) > 2 else "lines+markers",
        "name": plotly_text(name),
        "meta": name,
        "legendgroup": plotly_text(name),
        "x": x,
        "y": y,
        "line": {"color": styles.colour(name), "dash": styles.dash(name), "width": 2},
        **more,
    }


def probit_axis(title: str, ticks: Sequence[float], low: float, high: float) -> dict[str, Any]:
    """Return an axis that is linear in normal deviates (probit), as DET curves have.

    Args:
        title: of the axis.
        ticks: rates in percent that are named.
        low, high: rates (0 to 1) at the ends.
    """
    return {
        "title": {"text": title},
        "tickvals": ndtri(np.array(ticks) / 100),
        "ticktext": [f"{tick:g}" for tick in ticks],
        "range": [float(ndtri(low)), float(ndtri(high))],
        "zeroline": False,
    }


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis with readable ticks: 1, 2 and 5 of few decades, the powers of many.

    Plotly's own ticks name every digit of a decade and write them over each other.

    Args:
        title: of the axis.
        low, high: smallest and largest value that is drawn, above 0.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(decades) <= FEW_DECADES else (1,)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    return {
        "title": {"text": title},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def thinned(values: NDArray[Any], most: int = 1500) -> NDArray[np.intp]:
    """Return indices, ascending, of at most `most` evenly spaced values, the last one included."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.intp))
