"""What the scripts of this folder share: rows of measured against predicted, printed and judged."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure: what was measured, what theory or methods/README.md says, and how far they may be
        apart.

    Attributes:
        low, high: where only bounds are predicted, these take the place of ``predicted``.
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
        """Whether the prediction came true."""
        if self.predicted is None:
            return self.low <= self.measured <= self.high
        scale = abs(self.predicted) if self.relative else 1.0
        return abs(self.measured - self.predicted) <= self.tolerance * scale

    def __str__(self) -> str:
        if self.predicted is not None:
            said = f"{self.predicted:.5g} +- {self.tolerance:g}{' of it' if self.relative else ''}"
        elif self.low == float("-inf"):
            said = f"below {self.high:g}"
        elif self.high == float("inf"):
            said = f"above {self.low:g}"
        else:
            said = f"{self.low:g} .. {self.high:g}"
        return (
            f"  {self.name:<52} {self.measured:>12.5g}   {said:<26} {'yes' if self.holds else 'NO'}"
        )


def main(
    parser: argparse.ArgumentParser,
    experiments: Sequence[Callable[[], list[Row]]],
    plot: Callable[[Path], None] | None = None,
) -> None:
    """Run experiments, print measured against predicted, plot, and exit with 1 if one did not come
    true.
    """
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for the plots (none: no plots)"
    )
    out = parser.parse_args().out
    held = True
    for experiment in experiments:
        begun = time.perf_counter()
        rows = experiment()
        print(f"{(experiment.__doc__ or '').strip()} ({time.perf_counter() - begun:.1f} s)")
        print(f"  {'':<52} {'measured':>12}   {'predicted':<26} holds")
        for row in rows:
            print(row)
        held = held and all(row.holds for row in rows)
    if out and plot:
        out.mkdir(parents=True, exist_ok=True)
        plot(out)
    sys.exit(0 if held else 1)
