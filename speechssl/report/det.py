"""What pictures and the page of a detection error trade-off share: ticks, points, the band."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from speechssl import metrics
from speechssl.report.page import untrusted
from speechssl.report.results import write_json

TICKS = (0.1, 0.5, 2, 5, 10, 20, 40, 60, 80, 95)
"""Percent, on axes of normal deviates."""

EDGES = (0.0005, 0.97)
"""Lowest and highest rate (0 to 1) of the axes."""

MOST_BANDS = 3
"""Systems whose bands are drawn; more would be one dark area."""

BAND_FPR: NDArray[np.float64] = ndtr(np.linspace(-3.2, 1.8, 31))
"""False positive rates (0 to 1) at which the band is known: even on the axis."""

REPLICATES = 200
"""Bootstrap resamples of the band, which is drawn and not read off."""


def min_dcf_point(fpr: metrics.Floats, fnr: metrics.Floats, p_target: float) -> tuple[float, float]:
    """Return the point (fpr, fnr), 0 to 1, of a curve at which the detection cost is least.

    Args:
        fpr, fnr: (U + 1,), as `metrics.det_curve` returns them.
        p_target: prior of a target; both costs are 1.
    """
    place = int(np.argmin(p_target * fnr + (1 - p_target) * fpr))
    return float(fpr[place]), float(fnr[place])


def miss_at(fpr: metrics.Floats, fnr: metrics.Floats, rate: float) -> float:
    """Return the false negative rate of a curve at a false positive rate, all 0 to 1."""
    return float(np.interp(rate, fpr[::-1], fnr[::-1]))


def band(
    scores: ArrayLike,
    target: ArrayLike,
    speakers: tuple[ArrayLike, ArrayLike],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[list[float] | None]:
    """Return the 95 % interval, over speakers, of the false negatives at each of `BAND_FPR`.

    Args:
        scores: (T,).
        target: (T,), true for target trials.
        speakers: the speakers (T,) of both sides.
        replicates, seed: of the bootstrap (`metrics.bootstrap_curve`).

    Returns:
        ``[low, high]`` (0 to 1) of each rate, or None where there is none.
    """
    at: dict[str, Callable[[metrics.Floats, metrics.Floats], float]] = {}
    for place, rate in enumerate(BAND_FPR):
        at[str(place)] = partial(miss_at, rate=float(rate))
    found = metrics.bootstrap_curve(at, scores, target, *speakers, replicates=replicates, seed=seed)
    return [None if interval is None else list(interval) for interval in found.values()]


def rows_of(held: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the band that a ``det.json`` holds, which may be somebody else's.

    Returns:
        (R, 2): ``[low, high]`` at each of `BAND_FPR`, NaN where there is none; (0, 2) if it is no
        such band.
    """
    rows = untrusted.items(held, "fnr_interval")
    if len(rows) != len(BAND_FPR):
        return np.empty((0, 2))
    found = np.full((len(rows), 2), np.nan)
    for place, row in enumerate(rows):
        if isinstance(row, list) and len(row) == 2:
            ends = [untrusted.finite(end) for end in row]
            if None not in ends:
                found[place] = np.array(ends, np.float64)
    return found


def write_band(rows: list[list[float] | None], path: Path) -> None:
    """Write a band as ``det.json``."""
    held: dict[str, Any] = {"fpr": BAND_FPR.round(6).tolist(), "fnr_interval": rows}
    write_json(path, held)
