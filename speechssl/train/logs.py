"""What a run says: ``log.jsonl`` always, a progress bar on a terminal, TensorBoard when
installed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from speechssl.distributed import mean_over_ranks


class Meter:
    """Means of scalars over the steps since the last log, kept on the device until they are
    read.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Add the scalars of one step; nothing is copied from the device."""
        for key, value in scalars.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value.clone()
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The means over steps and processes, in one copy from the device; starts anew."""
        if not self._steps:
            return {}
        values = mean_over_ranks(
            torch.stack([v.double() for v in self._sums.values()]) / self._steps
        )
        out = dict(zip(self._sums, values.tolist(), strict=True))
        self._sums, self._steps = {}, 0
        return out


class Clock:
    """Utterances a second and the share of the time spent waiting for data, since the last
    reading.
    """

    def __init__(self, batch: int) -> None:
        self.batch, self.steps, self.waited, self.started = batch, 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time what runs inside as waiting for one batch."""
        begun = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begun

    def step(self) -> None:
        """One optimiser step done."""
        self.steps += 1

    def read(self) -> dict[str, float]:
        """The figures; starts anew."""
        elapsed = time.perf_counter() - self.started
        out = {
            "utterances_per_second": self.steps * self.batch / elapsed,
            "data_wait": self.waited / elapsed,
        }
        self.steps, self.waited, self.started = 0, 0.0, time.perf_counter()
        return out


class Log:
    """Writes one JSON object a logged step and shows progress on standard error.

    Args:
        folder: run folder; ``log.jsonl`` is cut back to steps up to ``step`` when a run resumes.
        steps: length of the run.
        step: where it starts.
        active: false in all processes but the first, where nothing is written or shown.
    """

    def __init__(self, folder: Path, steps: int, step: int, active: bool = True) -> None:
        self.active = active
        self.path = folder / "log.jsonl"
        kept = []
        if step and self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if _step(line) <= step]
        if active:
            self.path.write_text("".join(line + "\n" for line in kept))
        self.steps, self.started, self.first = steps, time.monotonic(), step
        self.bar = tqdm(
            total=steps, initial=step, unit="step", disable=not (active and sys.stderr.isatty())
        )
        self.board = _tensorboard(folder) if active else None

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """One object of figures after ``step`` steps."""
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(
                json.dumps({"step": step, **{k: _short(v) for k, v in figures.items()}}) + "\n"
            )
        if self.board:
            for key, value in figures.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(key, value, step)
        shown = "  ".join(f"{k} {_short(figures[k])}" for k in _SHOWN if k in figures)
        if self.bar.disable:
            left = (
                (time.monotonic() - self.started) / max(1, step - self.first) * (self.steps - step)
            )
            self.say(f"step {step}/{self.steps}  {shown}  {left / 60:.1f} min left")
        else:
            self.bar.set_postfix_str(shown)

    def tick(self) -> None:
        """One step done."""
        self.bar.update()

    def say(self, text: str) -> None:
        """A line for the person, above the bar."""
        if self.active:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """End the bar and the TensorBoard file."""
        self.bar.close()
        if self.board:
            self.board.close()


_SHOWN = (
    "loss",
    "teacher_entropy",
    "kl",
    "effective_rank",
    "lr",
    "utterances_per_second",
    "data_wait",
)


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
