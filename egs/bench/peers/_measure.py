"""Wall and processor seconds in turns, and the peak memory of a process of its own."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from egs.bench._timing import alternate, peak_kib

Candidates = Mapping[str, Callable[[], object]]


class Seconds(NamedTuple):
    """Medians of one candidate."""

    wall: float
    processor: float


class _Counted:
    """A function whose processor seconds are kept, call by call."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run
        self.seconds: list[float] = []

    def __call__(self) -> None:
        begun = time.process_time()
        self._run()
        self.seconds.append(time.process_time() - begun)


def in_turns(candidates: Candidates, rounds: int) -> dict[str, Seconds]:
    """Return medians over `rounds`, run in turns after a round that does not count."""
    counted = {name: _Counted(run) for name, run in candidates.items()}
    wall = alternate(counted, rounds)
    return {
        name: Seconds(wall[name], statistics.median(run.seconds[1:]))
        for name, run in counted.items()
    }


def peak_gigabytes() -> float:
    """Return the most memory that this process has held, in GB."""
    peak = peak_kib()
    if peak:
        return peak * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak_of(module: str, words: Sequence[str], name: str) -> float:
    """Return the peak memory of a process that runs one candidate alone, in GB; NaN if it fails."""
    command = [sys.executable, "-m", module, *words, "--alone", name]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return float(lines[-1]) if done.returncode == 0 and lines else float("nan")


def show(title: str, seconds: Mapping[str, Seconds], base: str, peaks: Mapping[str, float]) -> None:
    """Print a line a candidate; ratios are of processor seconds, to `base`."""
    print(f"\n{title}")
    print(f"  {'':<34}{'wall s':>9}{'CPU s':>9}{'ratio':>8}{'peak GB':>9}")
    for name, value in seconds.items():
        ratio = seconds[base].processor / value.processor
        peak = f"{peaks[name]:9.2f}" if name in peaks else ""
        print(f"  {name:<34}{value.wall:>9.3f}{value.processor:>9.3f}{ratio:>8.2f}{peak}")
    sys.stdout.flush()
