"""Runs the commands of a sweep: several at once, each in a process of its own, until all is done.

What is done is not repeated: a training whose model is there, an evaluation with its results. A
training that was cut off is resumed. A run that fails is listed; the others go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from speechssl import processes, threads
from speechssl.errors import writing
from speechssl.sweep.grid import PlannedRun
from speechssl.text import printable

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_SAVE = 60.0  # that a training has to save its state when it is asked to end


@dataclass(frozen=True)
class Task:
    """One command of a run.

    Attributes:
        name: for seconds.tsv, such as `train-lr=1e-3`.
        command: program and arguments.
        is_done: whether it need not run.
        done: called after it has run.
    """

    name: str
    command: Sequence[str]
    is_done: Callable[[], bool]
    done: Callable[[], None] = lambda: None


class Source(Protocol):
    """Where the runs come from."""

    def take(self) -> PlannedRun | None:
        """Return the next run; None if there is none now."""
        ...

    def finished(self, run: PlannedRun, error: str) -> None:
        """Learn that a run is done; `error` is one line, or empty."""
        ...


@dataclass
class _Active:
    """A run at work."""

    run: PlannedRun
    tasks: list[Task]
    log: Path
    place: int
    process: subprocess.Popen[bytes] | None = None
    task: Task | None = None
    began: float = 0.0
    seconds: float = 0.0
    file: IO[bytes] | None = field(default=None, repr=False)


class Workers:
    """Does the tasks of runs, `jobs` runs at a time.

    Args:
        out: folder of the sweep; the commands' output goes into `logs/RUN.log`.
        jobs: runs at once.
        tasks_of: function of a run and its place among those at work (0 to jobs - 1).
    """

    def __init__(
        self, out: Path, jobs: int, tasks_of: Callable[[PlannedRun, int], list[Task]]
    ) -> None:
        self.out = out
        self.jobs = jobs
        self.tasks_of = tasks_of
        self._active: list[_Active] = []
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads.choose("auto", jobs))}

    def work(self, source: Source) -> None:
        """Take runs until there are none.

        If this process is asked to end, the runs are, too; trainings save their state.

        Raises:
            UserError: the disk refused a log.
        """
        with writing(self.out):
            (self.out / "logs").mkdir(parents=True, exist_ok=True)
        try:
            while self._start_some(source) or self._active:
                if not self._look(source):
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
        except BaseException:
            self._end_all()
            raise

    def _start_some(self, source: Source) -> bool:
        """Start runs while there is room; True if any was started."""
        started = False
        while len(self._active) < self.jobs:
            run = source.take()
            if run is None:
                break
            used = {active.place for active in self._active}
            place = min(set(range(self.jobs)) - used)
            log = self.out / "logs" / f"{run.name}.log"
            self._active.append(_Active(run, self.tasks_of(run, place), log, place))
            started = True
        return started

    def _look(self, source: Source) -> bool:
        """Start the next task of every run whose last one has ended; True if one has."""
        moved = False
        for active in list(self._active):
            if active.process is not None and active.process.poll() is None:
                continue
            moved = True
            error = self._end_task(active)
            try:
                if not error and self._start_task(active):
                    continue
            except OSError as problem:  # no such program, or none that may be run
                error = f"{active.task.name if active.task else ''} cannot be started ({problem})"
            if active.file is not None:
                active.file.close()
            self._active.remove(active)
            source.finished(active.run, error)
        return moved

    def _start_task(self, active: _Active) -> bool:
        """Start the next task that is not done; False if there is none."""
        while active.tasks:
            task = active.tasks.pop(0)
            if task.is_done():
                continue
            with writing(active.log):
                active.file = active.log.open("ab")
                active.file.write(f"$ {printable(' '.join(task.command))}\n".encode())
                active.file.flush()
            active.task = task
            active.began = time.monotonic()
            active.process = processes.start_command(
                task.command,
                stdin=subprocess.DEVNULL,
                stdout=active.file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which asks them to end
            )
            return True
        return False

    def _end_task(self, active: _Active) -> str:
        """Take in the end of a task; return what went wrong, in one line, or ""."""
        if active.process is None or active.task is None:
            return ""
        code = active.process.returncode
        if active.file is not None:
            active.file.close()
        active.process = None
        if code != 0:
            return f"{active.task.name} ended with code {code}: {last_line(active.log)}"
        seconds = time.monotonic() - active.began
        active.task.done()
        with writing(self.out), (self.out / "seconds.tsv").open("a", encoding="utf-8") as file:
            file.write(f"{active.task.name}\t{seconds:.1f}\n")
        return ""

    def _end_all(self) -> None:
        """Ask every command to end, and wait until its state is saved."""
        running = [active.process for active in self._active if active.process is not None]
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + _SECONDS_TO_SAVE
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a command and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, number)


def last_line(log: Path) -> str:
    """Return the last line of a command's output that says something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return f"see {log}"
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return printable(lines[-1])[:300] if lines else f"see {log}"


def choose_jobs(asked: int | None, runs: int, gpus: int) -> int:
    """Return how many runs go on at once.

    Args:
        asked: the user's number, or None.
        runs: how many are left to do.
        gpus: that can be used; 0: the runs are on the CPU.

    Returns:
        `asked`, or one a GPU, or as many as the usable cores allow when each run has the threads that
        OMP_NUM_THREADS says (one, where it is not set): on a CPU small trainings side by side are
        faster than one after the other with more threads each.
    """
    if asked is not None:
        return asked
    if gpus:
        return max(1, min(runs, gpus))
    each = threads.choose("auto", threads.usable_cores())
    return max(1, min(runs, threads.usable_cores() // each))


def python(*words: str) -> list[str]:
    """Return a command of this package, run by this Python."""
    return [sys.executable, "-m", "speechssl", *words]
