"""Feeds the trackers of a run (`train.trackers`) so that none of them can hold up the training.

Each tracker has a thread that waits for its network or disk. Whatever a tracker raises ends its
tracking with one line of warning. ``trackers.json`` says under which id a run is tracked and up to
which step, so that a resumed run continues it: `log.jsonl` has what a tracker has missed, and a step
that a tracker has seen is given again only if it hides what it had (`Tracker.REWINDS`).
"""

from __future__ import annotations

import json
import queue
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from speechssl import foreign_json, parts
from speechssl.errors import UserError
from speechssl.files import RunFolder, write_text
from speechssl.interfaces import TrackedRun, Tracker
from speechssl.pools import start_thread
from speechssl.text import printable

SECONDS_TO_CLOSE = 60.0
"""How long the end of a training waits for a tracker that still sends or writes."""

SECONDS_TO_OPEN = 20.0
"""How long the beginning waits for trackers: loader workers are best forked when no thread imports."""

_MOST_WAITING = 1000
"""Calls that may wait for a tracker; one that falls behind further is given up."""

_ID = re.compile(r"[\w.\-]{1,200}", re.ASCII)

Named = Mapping[str, Tracker]
"""Trackers by the name that the configuration has for them."""


def check_trackers(setting: Any) -> list[dict[str, Any]]:
    """Return the sections of ``train.trackers``, with every default filled in.

    Args:
        setting: ``auto``, a name, or a list of names and of ``{name: ..., settings}``.

    Raises:
        UserError: no such tracker, a setting that it does not have, or one named twice.
    """
    if setting == "auto":
        return []
    if isinstance(setting, str | Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence):
        raise UserError(
            "config: train.trackers must be auto or a list, such as [tensorboard, {name: wandb,"
            f" project: mine}}], not {setting!r}"
        )
    checked = []
    for number, section in enumerate(setting):
        checked.append(parts.check("trackers", section, f"train.trackers[{number}]"))
    names = [section["name"] for section in checked]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"config: train.trackers names {name} twice; leave one of them out")
    return checked


def build_trackers(setting: Any) -> dict[str, Tracker]:
    """Return the trackers of ``train.trackers``; ``auto``: TensorBoard's curves where installed.

    Raises:
        UserError: as ``check_trackers``, or a library is missing.
    """
    if setting == "auto":
        curves = {"name": "tensorboard", "sounds": 0, "embeddings": 0}
        try:
            return {"tensorboard": parts.build("trackers", curves)}
        except UserError:
            return {}
    return {
        section["name"]: parts.construct("trackers", section) for section in check_trackers(setting)
    }


class Tracking:
    """The trackers of a run, each fed by a thread of its own.

    Args:
        trackers: built, not yet open; none in all processes but the first.
        folder: of the run.
        run: what they are told of it, without an id.
        resumed: whether the tracked runs of ``trackers.json`` are continued.
    """

    def __init__(
        self, trackers: Named, folder: RunFolder, run: TrackedRun, *, resumed: bool = False
    ) -> None:
        self.trackers = trackers
        before = _read_progress(folder) if resumed else {}
        progress = _Progress(folder, before)
        history = []
        if trackers and resumed:
            history = [entry for _, entry in foreign_json.lines_up_to(folder.log, run.step)]
        self._feeds = []
        for name, tracker in trackers.items():
            self._feeds.append(_Feed(name, tracker, run, progress, history))
        for feed in self._feeds:
            feed.opened.wait(SECONDS_TO_OPEN)

    def add(self, step: int, figures: Mapping[str, Any], alarms: Sequence[str] = ()) -> None:
        """Give the figures and alarms after ``step`` steps to every tracker."""
        numbers = _numbers(figures)
        for feed in self._feeds:
            feed.add(step, numbers, alarms)

    def add_sounds(
        self, step: int, sounds: Sequence[NDArray[np.float32]], names: Sequence[str], rate: int
    ) -> None:
        """Give crops (T,) to every tracker that wants some."""
        for feed in self._feeds:
            count = feed.tracker.sounds
            if count > 0:
                feed.put(step, feed.tracker.add_sounds, step, sounds[:count], names[:count], rate)

    def add_embeddings(
        self, step: int, embeddings: NDArray[np.float32], names: Sequence[str], *, last: bool
    ) -> None:
        """Give embeddings (N, D) to every tracker that wants some after this step."""
        for feed in self._feeds:
            count = feed.tracker.embeddings
            if _wants_embeddings(feed.tracker, step, last):
                feed.put(step, feed.tracker.add_embeddings, step, embeddings[:count], names[:count])

    @property
    def sounds(self) -> int:
        """The largest number of crops that a tracker wants."""
        return max((tracker.sounds for tracker in self.trackers.values()), default=0)

    def embeddings(self, step: int, last: bool) -> int:
        """Return the largest number of embeddings that a tracker wants after this step."""
        wanted = [0]
        for tracker in self.trackers.values():
            if _wants_embeddings(tracker, step, last):
                wanted.append(tracker.embeddings)
        return max(wanted)

    def close(self, *, finished: bool, seconds: float = SECONDS_TO_CLOSE) -> None:
        """Let every tracker end, and wait for them, at most ``seconds`` for each."""
        for feed in self._feeds:
            feed.end(finished)
        for feed in self._feeds:
            feed.wait(seconds)


def _wants_embeddings(tracker: Tracker, step: int, last: bool) -> bool:
    is_due = tracker.embeddings_every > 0 and step % tracker.embeddings_every == 0
    return tracker.embeddings > 0 and (last or is_due)


class _Feed:
    """One tracker, and the thread that calls it."""

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        run: TrackedRun,
        progress: _Progress,
        history: Sequence[Mapping[str, Any]],
    ) -> None:
        self.name = name
        self.tracker = tracker
        self._progress = progress
        identity, self._seen = progress.of(name)
        if tracker.REWINDS:
            self._seen = min(self._seen, run.step)
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._given_up = False
        self.opened = threading.Event()
        self._thread = start_thread(self._work, name=f"tracker-{name}")
        missed = [entry for entry in history if entry["step"] > self._seen]
        self._queue(lambda: self._open(run._replace(id=identity), missed))

    def add(self, step: int, figures: Mapping[str, float], alarms: Sequence[str]) -> None:
        if step > self._seen:
            self._queue(lambda: self._add(step, figures, alarms))

    def put(self, step: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call a method of the tracker, unless it has seen this step before."""
        if step > self._seen:
            self._queue(lambda: call(*arguments))

    def end(self, finished: bool) -> None:
        self._queue(lambda: self.tracker.close(finished))
        self._queue(None)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up(f"not done after {seconds:g} s")

    def _open(self, run: TrackedRun, missed: Sequence[Mapping[str, Any]]) -> None:
        self._progress.opened(self.name, str(self.tracker.open(run)))
        self.opened.set()
        for entry in missed:
            self._add(entry["step"], _numbers(entry), _alarms(entry))

    def _add(self, step: int, figures: Mapping[str, float], alarms: Sequence[str]) -> None:
        self.tracker.add_figures(step, figures)
        for alarm in alarms:
            self.tracker.add_alarm(step, alarm)
        self._progress.seen(self.name, step)

    def _queue(self, call: Callable[[], None] | None) -> None:
        if self._given_up:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._give_up(f"{_MOST_WAITING} calls behind")

    def _work(self) -> None:
        while not self._given_up:
            call = self._calls.get()
            if call is None:
                return
            try:
                call()
            except (Exception, SystemExit) as error:
                self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, reason: str) -> None:
        if self._given_up:
            return
        self._given_up = True
        self.opened.set()  # nobody is to wait for it
        said = printable(" ".join(reason.split()))[:300]
        tqdm.write(
            f"speechssl: warning: tracker {self.name}: {said}; the training goes on without it,"
            " and log.jsonl has everything",
            file=sys.stderr,
        )


class _Progress:
    """``trackers.json``: for each tracker, the id of its run, and the last step that it has seen."""

    def __init__(self, folder: RunFolder, entries: dict[str, dict[str, Any]]) -> None:
        self._path = folder.trackers
        self._entries = entries
        self._lock = threading.Lock()  # several threads write

    def of(self, name: str) -> tuple[str | None, int]:
        """Return id and step of a tracker; None and -1 if it is new."""
        entry = self._entries.get(name)
        return (None, -1) if entry is None else (entry["id"], entry["step"])

    def opened(self, name: str, identity: str) -> None:
        """Keep the id under which a tracker continues.

        Raises:
            ValueError: it is no such id.
        """
        if not _ID.fullmatch(identity):
            raise ValueError(f"the id {identity[:50]!r} has other letters than A-Z, 0-9 and ._-")
        step = self.of(name)[1]
        self._write(name, {"id": identity, "step": step})

    def seen(self, name: str, step: int) -> None:
        """Keep the last step that a tracker has seen."""
        self._write(name, {"id": self._entries[name]["id"], "step": step})

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        with self._lock:
            self._entries[name] = entry
            write_text(self._path, json.dumps(self._entries, indent=1, sort_keys=True) + "\n")


def _read_progress(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Return what ``trackers.json`` says; an entry that is not of its form does not count."""
    try:
        written = foreign_json.read(folder.trackers)
    except UserError:
        return {}
    entries = {}
    for name, entry in written.items():
        if not isinstance(entry, dict):
            continue
        identity = entry.get("id")
        step = entry.get("step")
        if isinstance(identity, str) and _ID.fullmatch(identity) and type(step) is int:
            entries[name] = {"id": identity, "step": step}
    return entries


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that are numbers."""
    found = {}
    for key, value in figures.items():
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = float(value)
    return found


def _alarms(entry: Mapping[str, Any]) -> list[str]:
    alarms = entry.get("alarms")
    return [str(alarm) for alarm in alarms] if isinstance(alarms, list) else []
