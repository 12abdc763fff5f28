"""A table of measured against predicted figures, shared by the scripts of this folder."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure: what was measured, and what theory or methods/README.md says.

    Attributes:
        name: what it is.
        measured: its value.
        predicted: the value it should have; None where only bounds are predicted.
        tolerance: how far the two may be apart.
        relative: whether the tolerance is a share of the prediction.
        low, high: the bounds, where ``predicted`` is None.
    """

    name: str
    measured: float
    predicted: float | None = None
    tolerance: float = 0.0
    relative: bool = False
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def holds(self) -> bool:
        """True if the prediction came true."""
        if self.predicted is None:
            return self.low <= self.measured <= self.high
        scale = abs(self.predicted) if self.relative else 1.0
        return abs(self.measured - self.predicted) <= self.tolerance * scale

    @property
    def prediction(self) -> str:
        """The prediction in words."""
        if self.predicted is not None:
            unit = " of it" if self.relative else ""
            return f"{self.predicted:.5g} +- {self.tolerance:g}{unit}"
        if self.low == float("-inf"):
            return f"below {self.high:g}"
        if self.high == float("inf"):
            return f"above {self.low:g}"
        return f"{self.low:g} .. {self.high:g}"

    def __str__(self) -> str:
        verdict = "yes" if self.holds else "NO"
        return f"  {self.name:<58} {self.measured:>12.5g}   {self.prediction:<26} {verdict}"


def main(
    parser: argparse.ArgumentParser,
    experiments: Sequence[Callable[[], list[Row]]],
    plot: Callable[[Path], None] | None = None,
) -> None:
    """Run experiments, print their tables, plot, and exit with 1 if a prediction did not hold.

    Args:
        parser: of the script; ``--out`` is added to it.
        experiments: each returns its rows; its docstring is the title of its table.
        plot: writes plots into a folder; called if ``--out`` is given.
    """
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for the plots (none: no plots)"
    )
    out = parser.parse_args().out
    all_hold = True
    for experiment in experiments:
        started_at = time.perf_counter()
        rows = experiment()
        seconds = time.perf_counter() - started_at
        title = (experiment.__doc__ or "").strip()
        print(f"{title} ({seconds:.1f} s)")
        print(f"  {'':<58} {'measured':>12}   {'predicted':<26} holds")
        for row in rows:
            print(row)
            all_hold = all_hold and row.holds
    if out and plot:
        out.mkdir(parents=True, exist_ok=True)
        plot(out)
    sys.exit(0 if all_hold else 1)
