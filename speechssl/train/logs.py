"""What a run reports: ``log.jsonl``, progress on standard error, trackers."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from speechssl import foreign_json
from speechssl.distributed import mean_over_ranks
from speechssl.errors import UserError
from speechssl.files import RunFolder, atomic_write
from speechssl.train.tracking import Tracking

_SHOWN = {
    "loss": "loss {:.4g}",
    "heldout_eer": "held-out EER {:.2f}%",
    "teacher_entropy": "entropy {:.3g}",
    "kl": "KL {:.3g}",
    "effective_rank": "rank {:.3g}",
    "heldout_effective_rank": "held-out rank {:.3g}",
    "utterances_per_second": "{:.3g} utt/s",
    "data_wait": "wait {:.0%}",
    "lr": "lr {:.2g}",
}
"""Figures that are shown, and how, the most important ones first; all are in ``log.jsonl``."""

_NARROW = 120  # columns of a terminal; with fewer, the figures take the place of the bar

_NARROW_BAR = "{n_fmt}/{total_fmt} {remaining} left{postfix}"

_RED = "\033[1;31m{}\033[0m"


class Meter:
    """Means of scalars over forward passes, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Add the scalars of one forward pass; nothing is copied from the device."""
        for key, value in scalars.items():
            if key in self._sums:
                self._sums[key] = self._sums[key] + value
            else:
                self._sums[key] = value.clone()
        self._count += 1

    def read(self) -> dict[str, float]:
        """Return the means since the last call, over passes and ranks, and reset."""
        if not self._count:
            return {}
        sums = torch.stack([value.double() for value in self._sums.values()])
        means = mean_over_ranks(sums / self._count).tolist()  # one copy from the device
        figures = dict(zip(self._sums, means, strict=True))
        self._sums = {}
        self._count = 0
        return figures

    def state(self) -> dict[str, Any]:
        """Return what has been added since the last ``read``, the means over ranks.

        Every rank calls it; the sums of one process keep all their bits.
        """
        if not self._count:
            return {"sums": {}, "count": 0}
        means = mean_over_ranks(torch.stack([value.double() for value in self._sums.values()]))
        sums = {}
        for (key, own), mean in zip(self._sums.items(), means, strict=True):
            sums[key] = mean.to(own.dtype, copy=True).cpu()
        return {"sums": sums, "count": self._count}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what ``state`` returned."""
        self._sums = {key: value.to(device) for key, value in state["sums"].items()}
        self._count = state["count"]


class Clock:
    """Measures throughput and the share of time spent waiting for data.

    Args:
        batch_size: utterances of an optimiser step, over all devices.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self.steps = 0
        self.wait_seconds = 0.0
        self.started_at = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        started_at = time.perf_counter()
        yield
        self.wait_seconds += time.perf_counter() - started_at

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave the time inside the block out of all figures: no training is done in it."""
        started_at = time.perf_counter()
        yield
        self.started_at += time.perf_counter() - started_at

    def step(self) -> None:
        """Count one optimiser step."""
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Return the figures since the last call, and reset."""
        elapsed = time.perf_counter() - self.started_at
        figures = {
            "utterances_per_second": self.steps * self.batch_size / elapsed,
            "data_wait": self.wait_seconds / elapsed,
        }
        self._reset()
        return figures


class Log:
    """Writes one JSON object for each logged step and shows progress on standard error.

    Args:
        folder: run folder. If the run resumes, its ``log.jsonl`` is cut back to steps
            up to ``step``.
        steps: length of the run.
        step: where it starts.
        active: False in all processes but the first; nothing is written or shown there.
        tracking: what else gets the figures.
        quiet: show alarms, and nothing else.
    """

    def __init__(
        self,
        folder: RunFolder,
        steps: int,
        step: int,
        active: bool = True,
        tracking: Tracking | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        self.path = folder.log
        self.steps = steps
        self.first_step = step
        self.active = active
        self.started_at = time.monotonic()
        if active:
            cut_back(self.path, step)
        self.quiet = quiet
        on_terminal = active and not quiet and sys.stderr.isatty()
        self.in_colour = on_terminal and "NO_COLOR" not in os.environ
        self.latest: dict[str, float] = {}
        self.columns = _columns()
        self.bar = tqdm(
            total=steps,
            initial=step,
            unit="step",
            disable=not on_terminal,
            bar_format=_NARROW_BAR if self.columns < _NARROW else None,
        )
        self.tracking = tracking

    def write(self, step: int, figures: Mapping[str, Any], alarms: Sequence[str] = ()) -> None:
        """Write the figures after ``step`` steps, and the alarms, if any."""
        if not self.active:
            return
        entry: dict[str, Any] = {"step": step}
        for key, value in figures.items():
            entry[key] = _rounded(value)
        if alarms:
            entry["alarms"] = list(alarms)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if self.tracking:
            self.tracking.add(step, figures, alarms)
        if self.bar.disable and not self.quiet:
            minutes = self._seconds_left(step) / 60
            shown = "  ".join(_in_words(figures))
            self.say(f"step {step}/{self.steps}  {shown}  {minutes:.1f} min left")
        elif not self.quiet:
            self.bar.set_postfix_str(self._line(figures))
        for alarm in alarms:
            self.say(_RED.format(alarm) if self.in_colour else alarm)
        if alarms and self.in_colour:  # from the first alarm on
            if self.columns < _NARROW:
                self.bar.bar_format = f"\033[31m{_NARROW_BAR}\033[0m"
            else:
                self.bar.colour = "red"

    def _line(self, figures: Mapping[str, Any]) -> str:
        """Return the latest figures for the bar: some are not measured at every logged step.

        Of those that do not fit into the terminal's width, the least important are left out.
        """
        self.latest |= {key: figures[key] for key in _SHOWN if key in figures}
        room = self.columns - len(f"{self.steps}/{self.steps} 0:00:00 left, ")
        line = ""
        for words in _in_words(self.latest):
            longer = f"{line}  {words}" if line else words
            if line and len(longer) > room:
                break
            line = longer
        return line

    def _seconds_left(self, step: int) -> float:
        elapsed = time.monotonic() - self.started_at
        return elapsed / max(1, step - self.first_step) * (self.steps - step)

    def tick(self) -> None:
        """Move the progress bar by one step."""
        self.bar.update()

    def say(self, text: str) -> None:
        """Print a line on standard error, above the progress bar."""
        if self.active:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Close the progress bar."""
        self.bar.close()


def _in_words(figures: Mapping[str, Any]) -> list[str]:
    """Return those of the figures that are shown, as people read them."""
    return [form.format(figures[key]) for key, form in _SHOWN.items() if key in figures]


def _columns() -> int:
    """Return the width of the terminal that standard error is; 80 if nobody knows."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def cut_back(path: Path, step: int, key: str = "step") -> None:
    """Keep the lines of a log up to ``step``; a run that starts at step 0 gets an empty log.

    Args:
        path: of the log.
        step: the last one that is kept.
        key: under which a line has its step.

    Raises:
        UserError: something else is in its place, a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no regular file; move it away, or choose another --out")
    with atomic_write(path) as temporary, open(temporary, "wb") as file:  # a kill loses no line
        if step:
            for line, _ in foreign_json.lines_up_to(path, step, key):
                file.write(line)


def sync(path: Path) -> None:
    """Wait until what was written to a file is on the disk; nothing is done if there is none."""
    if path.exists():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _rounded(value: Any) -> Any:
    """Return a number with five digits; anything else as it is."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
