"""Reads a log while it grows. It may be somebody else's: huge, cut off, no JSON, or full of markup."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechssl import foreign_json, foreign_yaml
from speechssl.errors import UserError
from speechssl.files import RunFolder, refuse_unreadable_folder
from speechssl.regular import refuse_special_file
from speechssl.report.page import untrusted

MOST_POINTS = 2000
"""Points of a curve that are kept; of longer ones, every second one is dropped again and again."""

MOST_FIGURES = 64
"""Figures that are kept, the first that come."""

MOST_ALARMS = 200
"""Alarms that are kept, the latest."""

_LONGEST_LINE = 1 << 16
_AT_ONCE = 1 << 22


class Series:
    """A figure over the steps, thinned to `MOST_POINTS`; the last point is always there."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._stride = 1
        self._count = 0
        self._last: tuple[float, float] | None = None

    def add(self, step: float, value: float) -> None:
        """Add a point; the value may be NaN."""
        self._last = (step, value)
        if self._count % self._stride == 0:
            self._points.append(self._last)
        self._count += 1
        if len(self._points) > MOST_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def points(self) -> list[tuple[float, float]]:
        """Return (step, value) in the order in which they came."""
        if self._last is None or self._points[-1] is self._last:
            return self._points
        return [*self._points, self._last]


class LogFollower:
    """The entries of a `log.jsonl`, read on from where the last reading ended.

    Args:
        path: the log; it need not be there yet.

    Attributes:
        series: figure -> its points.
        step: the last one, 0 before the first.
        alarms: step and text of each.
        broken: lines that are no object with a step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.series: dict[str, Series] = {}
        self.step = 0.0
        self.alarms: list[tuple[float, str]] = []
        self.broken = 0
        self._offset = 0
        self._inode = -1
        self._rest = b""
        self._skipping = False

    def read(self) -> bool:
        """Read what has been added; True if anything was.

        A log that has become shorter, or another file (a run that is resumed), is read anew.

        Raises:
            UserError: it is there and cannot be read.
        """
        refuse_special_file(self.path)
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._forget()
                    self._inode = status.st_ino
                file.seek(self._offset)
                return self._read_on(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UserError(f"watch: {self.path} cannot be read ({error.strerror})") from error

    def _read_on(self, file: Any) -> bool:
        grew = False
        while data := file.read(_AT_ONCE):
            grew = True
            self._offset += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                if self._skipping:  # the end of a line that was too long
                    self._skipping = False
                elif line.strip():
                    self._take(line)
            if len(self._rest) > _LONGEST_LINE:
                self.broken += not self._skipping
                self._skipping = True
                self._rest = b""
        return grew

    def _take(self, line: bytes) -> None:
        entry = _entry(line)
        if entry is None:
            self.broken += 1
            return
        step = float(entry["step"])
        self.step = step
        for alarm in untrusted.items(entry, "alarms"):
            self.alarms.append((step, str(alarm)[:2000]))
        del self.alarms[:-MOST_ALARMS]
        for key, value in entry.items():
            if key == "step" or not foreign_json.is_number(value):
                continue
            if key not in self.series and len(self.series) >= MOST_FIGURES:
                continue
            number = untrusted.number(entry, key)
            series = self.series.setdefault(key, Series())
            series.add(step, math.nan if number is None else number)

    def rows(self) -> list[dict[str, Any]]:
        """Return the points that are kept as entries again, in the order of their steps."""
        rows: dict[float, dict[str, Any]] = {}
        for key, series in self.series.items():
            for step, value in series.points():
                rows.setdefault(step, {"step": step})[key] = value
        for step, alarm in self.alarms:
            rows.setdefault(step, {"step": step}).setdefault("alarms", []).append(alarm)
        return [rows[step] for step in sorted(rows)]


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line if it has a finite step, else None."""
    if len(line) > _LONGEST_LINE:
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or untrusted.number(entry, "step") is None:
        return None
    return entry


@dataclass
class Watched:
    """A run as it stands.

    Attributes:
        name: of the folder.
        settings: its config.yaml, empty where it cannot be read.
        about: its about.yaml, likewise.
        steps: of the whole run; None: unknown.
        log: its log so far.
        notes: what could not be read, one line each.
    """

    name: str
    folder: RunFolder
    settings: dict[str, Any]
    about: dict[str, Any]
    steps: float | None
    log: LogFollower
    notes: list[str] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether the model that users get has been written."""
        return self.folder.model.existing() is not None

    def points(self, key: str) -> list[tuple[float, float]]:
        """Return (step, value) of a figure, NaN for a value that is not finite."""
        series = self.log.series.get(key)
        return [] if series is None else series.points()

    def seconds_left(self) -> float | None:
        """Estimate the time left from the throughput of the last 20 entries; None: unknown."""
        if self.steps is None or self.is_finished:
            return None
        epochs = self.points("epoch")
        utterances = untrusted.number(untrusted.mapping(self.about, "data"), "utterances")
        rates = [rate for _, rate in self.points("utterances_per_second")[-20:] if rate > 0]
        if not (epochs and utterances and rates):
            return None
        step, epoch = epochs[-1]
        if not (step > 0 and epoch > 0):
            return None
        batch = epoch * utterances / step
        return max(0.0, self.steps - step) * batch * len(rates) / sum(rates)

    def seconds_since_last(self) -> float | None:
        """Return how long ago the log was written; None: there is none."""
        try:
            return max(0.0, time.time() - self.folder.log.stat().st_mtime)
        except OSError:
            return None


def watched(path: Path) -> Watched:
    """Read what is known of the run in a folder.

    Raises:
        UserError: it is no run folder.
    """
    folder = RunFolder(path)
    refuse_unreadable_folder("watch", path)
    if not (folder.config.is_file() or folder.log.is_file()):
        raise UserError(
            f"watch: {path} is no run folder (no config.yaml, no log.jsonl); give"
            f" {_runs_inside(path) or 'the --out of `speechssl train`'}"
        )
    notes: list[str] = []
    settings = _read(folder.config, notes)
    about = _read(folder.about, notes)
    untrained = untrusted.mapping(_read(folder.untrained.config, notes), "about")
    steps = untrusted.number(untrained, "steps")
    if steps is None:
        steps = untrusted.number(untrusted.mapping(settings, "train"), "steps")
    name = Path(path).resolve().name
    run = Watched(name, folder, settings, about, steps, LogFollower(folder.log), notes)
    run.log.read()
    return run


def _runs_inside(path: Path) -> str:
    """Return the newest run in an experiment or a sweep, the one that is probably meant."""
    folders = [*path.glob("*/"), *path.glob("runs/*/")]
    logs = [RunFolder(folder).log for folder in folders]
    found = [
        log for log in logs if os.path.isfile(log)
    ]  # False, too, where it may not be looked at
    newest = max(found, key=lambda log: log.stat().st_mtime, default=None)
    return "" if newest is None else str(newest.parent)


def _read(path: Path, notes: list[str]) -> dict[str, Any]:
    """Return what a YAML file holds; nothing, and a note, where it cannot be read."""
    if not path.is_file():
        return {}
    try:
        return foreign_yaml.read(path)
    except UserError as error:
        notes.append(str(error))
        return {}
