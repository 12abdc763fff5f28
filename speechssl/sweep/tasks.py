"""What a sweep is asked for, and the commands that each of its runs consists of."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.errors import UserError, writing
from speechssl.files import RunFolder, write_text
from speechssl.sweep.grid import PlannedRun
from speechssl.sweep.measures import OBJECTIVE
from speechssl.sweep.work import Task, python

PLACES = ("run", "name", "out", "eval", "device")
"""What stands in braces in the command of `--after`."""


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What the user asks for.

    Attributes:
        config: configuration of `speechssl train`.
        words: `key=value`, `key=a,b,c`, `seed=0..4`; with `optuna`, also `key=LOW..HIGH`.
        out: folder of the sweep.
        jobs: runs at once; None: as many as the cores or GPUs allow.
        device: of every run; `auto` and `cuda` share all GPUs out.
        evaluate: Kaldi directories with `trials` that every run is evaluated on.
        after: a command for each run after its training, with `PLACES` in braces.
        arms: table of arms (`grid.read_arms`); None: there are none.
        only: names of the arms that are wanted; empty: all.
        optuna: number of settings that Optuna tries in place of all combinations; 0: none.
        objective: measure that Optuna goes by.
        reference: setting that the others are compared with; None: the first.
    """

    config: str
    words: Sequence[str]
    out: Path
    jobs: int | None = None
    device: str = "auto"
    evaluate: Sequence[Path] = ()
    after: str | None = None
    arms: Path | None = None
    only: Sequence[str] = ()
    optuna: int = 0
    objective: str = OBJECTIVE
    reference: str | None = None


def check_lists(settings: SweepSettings) -> None:
    """Raise UserError if a directory of `evaluate` has no trials, or two have one name."""
    names = [path.resolve().name for path in settings.evaluate]
    for path, name in zip(settings.evaluate, names, strict=True):
        if not (path / "trials").is_file():
            raise UserError(
                f"sweep: {path} has no file `trials`; --evaluate takes Kaldi directories"
            )
        if names.count(name) > 1:
            raise UserError(f"sweep: two directories of --evaluate are called {name}; rename one")


def check_command(command: str | None) -> None:
    """Raise UserError if `--after` is no command, or no program, or has unknown words in braces."""
    if command is None:
        return
    program = fill(command, {place: f"{{{place}}}" for place in PLACES})[0]
    if "{" not in program and shutil.which(program) is None:
        raise UserError(f"sweep: --after: there is no program {program!r}; check its name, or PATH")


def fill(command: str, values: dict[str, str]) -> list[str]:
    """Return the words of a command with `{run}` and the like filled in; no shell reads it.

    Raises:
        UserError: it has no words, an open quote, or unknown words in braces.
    """
    try:
        words = [word.format_map(values) for word in shlex.split(command)]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        places = ", ".join(f"{{{place}}}" for place in PLACES)
        raise UserError(
            f"sweep: --after {command!r}: {type(error).__name__} {error}; braces hold one of {places},"
            " and double braces stand for single ones"
        ) from error
    if not words:
        raise UserError("sweep: --after is empty; give a command")
    return words


def tasks(settings: SweepSettings, run: PlannedRun, device: str) -> list[Task]:
    """Return what is to be done for one run."""
    out = settings.out
    folder = RunFolder(out / "runs" / run.name)
    train = python("train", settings.config, "--out", str(folder.path), "--resume")
    found = [
        Task(
            f"train-{run.name}",
            [*train, "--device", device, *run.overrides],
            lambda: folder.model.existing() is not None,
        )
    ]
    for data in settings.evaluate:
        found += _evaluation(out, run, folder, data, device)
    if settings.after is not None:
        found.append(_command_after(settings, run, folder, device))
    return found


def _evaluation(
    out: Path, run: PlannedRun, folder: RunFolder, data: Path, device: str
) -> list[Task]:
    """Return the commands that embed a directory and score its trials."""
    name = data.resolve().name
    embeddings = out / "embeddings" / run.name / f"{name}.npz"
    results = out / "eval" / run.name / name
    embed = python("embed", str(folder.path), str(data), "--device", device, "--out")
    score = python("evaluate", "verification", str(embeddings), "--trials", str(data / "trials"))
    speakers = ["--speakers", str(data)] if (data / "utt2spk").is_file() else []
    embeddings.parent.mkdir(parents=True, exist_ok=True)
    done = (results / "results.json").is_file
    return [
        Task(
            f"embed-{run.name}-{name}",
            [*embed, str(embeddings)],
            lambda: embeddings.is_file() or done(),
        ),
        Task(
            f"evaluate-{run.name}-{name}",
            [*score, *speakers, "--model", run.name, "--out", str(results)],
            done,
        ),
    ]


def _command_after(
    settings: SweepSettings, run: PlannedRun, folder: RunFolder, device: str
) -> Task:
    """Return the user's own command; a file in `after/` says that it has run."""
    assert settings.after is not None
    mark = settings.out / "after" / run.name
    values = {
        "run": str(folder.path),
        "name": run.name,
        "out": str(settings.out),
        "eval": str(settings.out / "eval" / run.name),
        "device": device,
    }
    command = fill(settings.after, values)
    text = shlex.join(command) + "\n"

    def is_done() -> bool:
        return mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == text

    def done() -> None:
        with writing(mark):
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_text(mark, text)

    return Task(f"after-{run.name}", command, is_done, done)
