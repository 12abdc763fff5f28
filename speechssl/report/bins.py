"""Histograms with bins that a reader can tell apart, shared by pictures and the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST = 15
MOST = 60


def histogram(
    values: ArrayLike, kinds: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Return common edges and, of each kind of value, a histogram of area 1.

    The width of a bin is Freedman's and Diaconis' for the smallest kind (2 IQR / n^(1/3)), so that
    no kind is mostly gaps; there are 15 to 60 bins.

    Args:
        values: (T,), finite.
        kinds: masks (T,) of the kinds; none may be empty.

    Returns:
        Edges (B + 1,) and the densities (B,) of each kind.
    """
    x = np.asarray(values, np.float64)
    low = float(x.min())
    high = float(x.max())
    if low == high:
        low -= 0.5
        high += 0.5
    smallest = x[min(kinds, key=np.count_nonzero)]
    quartiles = np.quantile(smallest, [0.25, 0.75])
    width = 2 * float(quartiles[1] - quartiles[0]) / len(smallest) ** (1 / 3)
    count = MOST if width <= 0 else min(MOST, max(FEWEST, (high - low) / width))
    edges = np.linspace(low, high, round(count) + 1)
    densities = [np.histogram(x[kind], edges, density=True)[0] for kind in kinds]
    return edges, densities
