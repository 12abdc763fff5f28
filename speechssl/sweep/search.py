"""A search for settings with Optuna, in place of all their combinations.

Trials are asked for and told one by one, so that runs go on side by side and a search that was cut
off continues: `optuna.journal` in the sweep's folder has every trial. A trial is one setting; with
several seeds its value is their mean.
"""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechssl.errors import UserError
from speechssl.sweep.grid import Axes, PlannedRun, runs_of_setting

if TYPE_CHECKING:
    import optuna

Direction = Literal["minimize", "maximize"]

_SPAN = re.compile(r"(?P<low>[-+.\deE]+)\.\.(?P<high>[-+.\deE]+?)(?P<log>:log)?")


@dataclass(frozen=True)
class Span:
    """The values from `low` to `high`.

    Attributes:
        whole: whole numbers only.
        log: evenly spread in their logarithm.
    """

    low: float
    high: float
    whole: bool
    log: bool


def read_space(words: Sequence[str]) -> tuple[list[str], dict[str, Span]]:
    """Tell spans (`optimizer.lr=1e-4..1e-2:log`) from the other words of a search.

    Returns:
        The other words, and setting -> span.

    Raises:
        UserError: a span runs backwards, or is logarithmic and not above 0.
    """
    others = []
    spans = {}
    for word in words:
        key, _, written = word.partition("=")
        span = None if key == "seed" else _span(key, written)
        if span is None:
            others.append(word)
        else:
            spans[key] = span
    return others, spans


def _span(key: str, written: str) -> Span | None:
    match = _SPAN.fullmatch(written)
    if match is None:
        return None
    try:
        low = float(match["low"])
        high = float(match["high"])
    except ValueError:
        return None
    log = match["log"] is not None
    if not low < high or (log and low <= 0):
        raise UserError(f"sweep: {key}={written}: give LOW..HIGH, with :log only above 0")
    whole = all(re.fullmatch(r"[-+]?\d+", match[side]) for side in ("low", "high"))
    return Span(low, high, whole, log)


def refuse_without_optuna() -> None:
    """Raise UserError if Optuna is not installed."""
    if find_spec("optuna") is None:
        raise UserError("sweep: --optuna needs Optuna; run: pip install 'speechssl[sweep]'")


class Search:
    """A `work.Source` whose runs Optuna chooses.

    Args:
        out: folder of the sweep.
        trials: settings to try, those of before included.
        spans: settings with a range.
        choices: settings with a list of values, the seeds among them.
        fixed: words that every run has.
        direction: `minimize` or `maximize`.
        value_of: function of a run's name: the objective, NaN where it has none.
        finished: called with each run that is done, and its error.
        seed: of the sampler.

    Attributes:
        runs: all that were taken.

    Raises:
        UserError: there is nothing to search for, or the journal is of another search.
    """

    def __init__(
        self,
        out: Path,
        trials: int,
        spans: Mapping[str, Span],
        choices: Axes,
        fixed: Sequence[str],
        direction: Direction,
        value_of: Callable[[str], float],
        finished: Callable[[PlannedRun, str], None],
        seed: int = 0,
    ) -> None:
        from optuna.samplers import TPESampler

        self.trials = trials
        self.fixed = fixed
        self.value_of = value_of
        self.on_finished = finished
        self.seeds = choices.get("seed", [])
        self.runs: list[PlannedRun] = []
        self._waiting: deque[PlannedRun] = deque()
        self._at_work: set[str] = set()
        self._open: dict[int, list[PlannedRun]] = {}
        self._failed: set[int] = set()
        self._left: dict[int, set[str]] = {}
        lists = {key: values for key, values in choices.items() if key != "seed"}
        self.space = _distributions(spans, lists)
        if not self.space:
            raise UserError(
                "sweep: --optuna has nothing to choose; give key=LOW..HIGH or key=a,b,c"
            )
        self.study = _open_study(out, direction)
        before = [
            trial for trial in self.study.get_trials(deepcopy=False) if not self._was_cut_off(trial)
        ]
        _refuse_another_search(before, self.space, self.study.direction.name, direction, out)
        # A sampler that is made anew must not draw again what it has drawn.
        self.study.sampler = TPESampler(
            seed=seed + len(before), constant_liar=True, n_startup_trials=min(10, trials)
        )
        self.asked = len(before)
        for trial in before:
            self._add(trial.number, trial.params, again=trial.state.is_finished())

    def _was_cut_off(self, trial: Any) -> bool:
        """Return whether a kill came before all values of a trial were chosen: it has no runs."""
        return not trial.state.is_finished() and trial.distributions.keys() < self.space.keys()

    def _add(self, number: int, params: Mapping[str, Any], again: bool = False) -> None:
        """Plan the runs of a trial; those of one that is finished are only listed."""
        chosen = {key: _written(params[key]) for key in self.space}
        planned = list(runs_of_setting(chosen, self.seeds, self.fixed))
        known = {run.name for run in self.runs}
        self.runs += [run for run in planned if run.name not in known]
        if not again:
            self._open[number] = planned
            self._left[number] = {run.name for run in planned}
            self._waiting += planned

    def take(self) -> PlannedRun | None:
        """Return the next run of a trial, of a new one if there are trials left."""
        if not self._waiting and self.asked < self.trials:
            trial = self.study.ask(fixed_distributions=self.space)
            self.asked += 1
            self._add(trial.number, trial.params)
        for run in self._waiting:
            if run.name not in self._at_work:  # two trials may have the same setting
                self._waiting.remove(run)
                self._at_work.add(run.name)
                return run
        return None

    def finished(self, run: PlannedRun, error: str) -> None:
        """Tell Optuna the value of a trial when the last of its runs is done."""
        self._at_work.discard(run.name)
        self.on_finished(run, error)
        for number, names in list(self._left.items()):
            if run.name not in names:
                continue
            names.discard(run.name)
            if error:
                self._failed.add(number)
            if not names:
                del self._left[number]
                self._tell(number)
            return

    def _tell(self, number: int) -> None:
        from optuna.trial import TrialState

        values = [self.value_of(run.name) for run in self._open.pop(number)]
        mean = sum(values) / len(values)
        if number in self._failed or not math.isfinite(mean):
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, mean)

    def best(self) -> tuple[str, float] | None:
        """Return the best setting and its value; None if no trial has one."""
        try:
            trial = self.study.best_trial
        except ValueError:
            return None
        chosen = {key: _written(trial.params[key]) for key in self.space}
        (run, *_) = runs_of_setting(chosen, [], self.fixed)
        assert trial.value is not None
        return run.setting, trial.value


def _open_study(out: Path, direction: Direction) -> optuna.Study:
    """Return the study of a sweep's folder, a new one if it has none; Optuna says warnings only."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    for name in ("optuna", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = JournalFileBackend(str(out / "optuna.journal"))
    return optuna.create_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(backend),
        load_if_exists=True,
        direction=direction,
    )


def _distributions(spans: Mapping[str, Span], lists: Axes) -> dict[str, Any]:
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    space: dict[str, BaseDistribution] = {}
    for key, span in spans.items():
        if span.whole:
            space[key] = IntDistribution(int(span.low), int(span.high), log=span.log)
        else:
            space[key] = FloatDistribution(span.low, span.high, log=span.log)
    for key, values in lists.items():
        space[key] = CategoricalDistribution(values)
    return space


def _refuse_another_search(
    before: Sequence[Any], space: Mapping[str, Any], was: str, direction: str, out: Path
) -> None:
    """Raise UserError if the trials of before were chosen from another space."""
    same = was.lower() == direction
    for trial in before:
        same = same and trial.distributions == dict(space)
    if not same:
        raise UserError(
            f"sweep: {out} holds a search over other settings or values; give the same ones, or"
            " another --out"
        )


def _written(value: Any) -> str:
    """Return a value as it is written in an override."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
