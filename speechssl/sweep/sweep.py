"""A sweep from beginning to end: plan, train, measure, and the table.

Its folder: `runs/NAME`, a run folder each; `eval/NAME/LIST`, what was measured; `embeddings/NAME`;
`logs/NAME.log`, what the commands printed; `seconds.tsv`; `failed.tsv`; and the tables of `table.py`.
`speechssl report OUT --html FILE` reads it as an experiment.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from speechssl import locks
from speechssl.data.manifest import checked_folder
from speechssl.errors import UserError, writing
from speechssl.files import RunFolder, write_skipped
from speechssl.sweep.grid import PlannedRun, plan, read_arms, read_words
from speechssl.sweep.measures import better, measure, needs_labels
from speechssl.sweep.search import Direction, Search, read_space, refuse_without_optuna
from speechssl.sweep.table import Table
from speechssl.sweep.tasks import SweepSettings, check_command, check_lists, tasks
from speechssl.sweep.work import Source, Task, Workers, choose_jobs
from speechssl.text import printable
from speechssl.train.resuming import same_settings
from speechssl.train.settings import resolve

_DIRECTIONS: dict[str, Direction] = {"lower": "minimize", "higher": "maximize"}


def sweep(settings: SweepSettings) -> tuple[str, int]:
    """Do a sweep, or what is left of it.

    Returns:
        The tables as Markdown, and how many runs failed.

    Raises:
        UserError: a mistake in the words, the configuration of a run, or a folder; nothing has run.
        processes.Terminated: this process was asked to end; the sweep goes on when it is started
            again.
    """
    check_lists(settings)
    check_command(settings.after)
    with locks.sole_writer_in(settings.out):
        if settings.optuna:
            return _search(settings)
        fixed, axes = read_words(settings.words)
        arms = read_arms(settings.arms, settings.only) if settings.arms else None
        runs = plan(fixed, axes, arms)
        for run in runs:
            check_run(settings, run)
        Table(runs, {}, settings.reference)
        report = _Progress(settings, len(runs))
        _work(settings, _Queue(runs, report.finished), len(runs), report)
        return _write(settings, runs, report)


def _search(settings: SweepSettings) -> tuple[str, int]:
    """Let Optuna choose the settings; afterwards as `sweep`."""
    refuse_without_optuna()
    if settings.arms or settings.reference:
        raise UserError("sweep: --optuna does not go with --arms and --reference; leave them out")
    direction = _DIRECTIONS.get(better(settings.objective) or "")
    if direction is None:
        raise UserError(
            f"sweep: --objective {settings.objective}: it is not known whether lower or higher is"
            " better; give uniformity, effective_rank, rankme, loss, or LIST/eer with --evaluate"
        )
    if needs_labels(settings.objective) and not (settings.evaluate or settings.after):
        raise UserError(
            f"sweep: --objective {settings.objective} is measured on labelled trials; name them with"
            " --evaluate DIR"
        )
    others, spans = read_space(settings.words)
    fixed, axes = read_words(others)
    seeds = len(axes.get("seed", [])) or 1
    report = _Progress(settings, settings.optuna * seeds)

    def value_of(name: str) -> float:
        return measure(settings.out, name).get(settings.objective, math.nan)

    search = Search(
        settings.out, settings.optuna, spans, axes, fixed, direction, value_of, report.finished
    )
    _work(settings, search, report.total, report)
    remarks = []
    best = search.best()
    if best is not None:
        remarks.append(f"Best by {settings.objective} ({best[1]:.4g}): {best[0]}")
    return _write(settings, search.runs, report, remarks)


def _work(settings: SweepSettings, source: Source, count: int, report: _Progress) -> None:
    gpus = usable_gpus(settings.device)
    jobs = choose_jobs(settings.jobs, count, len(gpus))
    report.begin(jobs)

    def tasks_of(run: PlannedRun, place: int) -> list[Task]:
        device = gpus[place % len(gpus)] if gpus else settings.device
        wait_for_writer(settings.out / "runs" / run.name)
        return tasks(settings, run, device)

    Workers(settings.out, jobs, tasks_of).work(source)


def wait_for_writer(folder: Path, seconds: float = 60.0) -> None:
    """Wait until no other process writes a run folder, at most `seconds`.

    If a sweep was killed, its trainings are asked to end by the kernel and still save their state.
    """
    deadline = time.monotonic() + seconds
    while folder.is_dir() and time.monotonic() < deadline:
        try:
            with locks.sole_writer(folder):
                return
        except UserError:
            time.sleep(0.2)


def _write(
    settings: SweepSettings,
    runs: Sequence[PlannedRun],
    report: _Progress,
    remarks: Sequence[str] = (),
) -> tuple[str, int]:
    """Write the tables and the list of the runs that failed."""
    measured = {}
    for run in runs:
        if RunFolder(settings.out / "runs" / run.name).model.existing() is not None:
            measured[run.name] = measure(settings.out, run.name)
    table = Table(runs, measured, settings.reference)
    used = "none"
    if any(needs_labels(name) for name in table.measures):
        lists = ", ".join(str(path) for path in settings.evaluate) or "those of --after"
        used = f"the trials of the evaluation ({lists})"
    chosen_by = settings.optuna and needs_labels(settings.objective)
    labels = f"Labels used: {used}{', also to choose settings' if chosen_by else ''}."
    failures = [f"Failed: {name}: {reason}" for name, reason in report.failed]
    with writing(settings.out):
        path = settings.out / "failed.tsv"
        if report.failed:
            write_skipped(path, report.failed)
        else:
            path.unlink(missing_ok=True)
    return table.write(settings.out, [*remarks, labels, *failures]), len(report.failed)


class _Queue:
    """Runs in their order."""

    def __init__(
        self, runs: Sequence[PlannedRun], finished: Callable[[PlannedRun, str], None]
    ) -> None:
        self._runs = deque(runs)
        self.finished = finished

    def take(self) -> PlannedRun | None:
        return self._runs.popleft() if self._runs else None


class _Progress:
    """A line on standard error for each run that is done, with the time that is left."""

    def __init__(self, settings: SweepSettings, total: int) -> None:
        self.out = settings.out
        self.total = total
        self.failed: list[tuple[str, str]] = []
        self._done = 0
        self._jobs = 1
        self._began = time.monotonic()

    def begin(self, jobs: int) -> None:
        self._jobs = jobs
        print(f"sweep: {self.total} runs, {jobs} at once, in {self.out}", file=sys.stderr)

    def finished(self, run: PlannedRun, error: str) -> None:
        self._done += 1
        if error:
            self.failed.append((run.name, error))
        each = (time.monotonic() - self._began) / self._done
        left = each * max(0, self.total - self._done) / 60
        said = f"failed: {error}" if error else _shown(measure(self.out, run.name))
        line = f"[{self._done}/{self.total}] {run.name}  {said}  {left:.1f} min left"
        print(printable(line), file=sys.stderr, flush=True)


def _shown(figures: dict[str, float]) -> str:
    names = [name for name in figures if name.endswith("/eer")] or ["loss", "uniformity"]
    return "  ".join(f"{name} {figures[name]:.4g}" for name in names if name in figures)


def check_run(settings: SweepSettings, run: PlannedRun) -> None:
    """Raise UserError if a run's configuration or data are wrong, or its folder holds another's."""
    asked = resolve(settings.config, run.overrides)
    folder = RunFolder(settings.out / "runs" / run.name)
    if folder.config.exists():
        same_settings(folder, asked)
    if folder.model.existing() is None:
        for directory in asked.data.train:
            checked_folder(directory)


@functools.cache
def usable_gpus(device: str) -> list[str]:
    """Return the GPUs that `auto` and `cuda` mean; empty for any other device, or if there are none."""
    if device not in ("auto", "cuda"):
        return []
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
