"""One table and one figure out of many methods trained alike (``recipes/methods``).

Reads ``EXP/eval/NAME/LIST/results.json``, ``EXP/diagnose/NAME/diagnostics.json`` and
``EXP/runs/NAME/log.jsonl``; writes ``EXP/comparison.md``, ``.json`` and ``.png``. The second table
says how well each label-free figure orders the arms by their EER (Spearman's rank correlation, 1 =
the order is right), which is what choosing a model without labels rests on; the third, how well the
collapse of the spectrum forecasts the EER itself (`forecast.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl import foreign_json
from speechssl.diagnostics.ranks import diagnostics
from speechssl.evaluation.verification import measures
from speechssl.files import RunFolder
from speechssl.report.diagnosis import agreement, rank_models
from speechssl.report.forecast import Forecast, forecast
from speechssl.report.results import (
    format_number,
    markdown_table,
    measured,
    read_evaluations,
    write_json,
    write_markdown,
)
from speechssl.report.summary import read_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_FIGURES = {
    "rankme": 0,
    "effective_rank": 0,
    "spectrum_auc": 3,
    "centre_norm": 2,
    "uniformity": 2,
}
"""Diagnostics in the table, and their digits after the point."""

UNTRAINED = "untrained"
"""Name of the arm that is the floor of the others."""

Correlations = dict[str, dict[str, float | None]]
"""Label-free criterion -> trial list -> Spearman's correlation with the EER."""


@dataclass(frozen=True)
class Arm:
    """All that is known of one method.

    Attributes:
        errors: measure, or `<measure>_interval` -> trial list -> value.
        figures: diagnostic -> value; None where it is not defined.
        verdict: of `speechssl diagnose`: healthy, not collapsed or collapsed.
        alarm: step of the first alarm of the collapse monitor.
        seconds: of training.
    """

    errors: dict[str, dict[str, Any]]
    figures: dict[str, float | None]
    verdict: str | None
    alarm: int | None
    seconds: float | None

    @property
    def eer(self) -> dict[str, float]:
        """Trial list -> EER, percent."""
        return self.errors["eer"]

    def as_json(self) -> dict[str, Any]:
        """Return the arm as it is written into comparison.json."""
        return {
            **self.errors,
            "figures": self.figures,
            "verdict": self.verdict,
            "alarm": self.alarm,
            "seconds": self.seconds,
        }


def compare(experiment: str | Path) -> str:
    """Write the comparison of an experiment and return its table as Markdown.

    Raises:
        UserError: nothing has been evaluated there, or a results file is damaged.
    """
    experiment = Path(experiment)
    arms = _ordered(_read_arms(experiment))
    correlations = _correlations({name: arm for name, arm in arms.items() if arm.figures})
    forecasts = _forecasts(arms)
    text = "\n\n".join([_markdown(arms, correlations), *_forecast_table(forecasts)])
    write_markdown(experiment / "comparison.md", text)
    data = {
        "arms": {name: arm.as_json() for name, arm in arms.items()},
        "spearman": correlations,
        "forecast": {trials: line._asdict() for trials, line in forecasts.items()},
    }
    write_json(experiment / "comparison.json", data)
    _draw(arms, experiment / "comparison.png")
    return text


def _read_arms(experiment: Path) -> dict[str, Arm]:
    """Return name -> arm, for each that has been evaluated."""
    errors: dict[str, dict[str, dict[str, Any]]] = {}
    for evaluation in read_evaluations(experiment):
        of_arm = errors.setdefault(evaluation.name, {})
        for key, value in measured(evaluation.results).items():
            of_arm.setdefault(key, {})[evaluation.trials] = value
    seconds = read_seconds(experiment / "seconds.tsv")
    arms = {}
    for name in sorted(errors):
        figures, verdict = _read_diagnosis(experiment / "diagnose" / name / "diagnostics.json")
        arms[name] = Arm(
            errors=errors[name],
            figures=figures,
            verdict=verdict,
            alarm=_first_alarm(RunFolder(experiment / "runs" / name).log),
            seconds=seconds.get(f"train-{name}"),
        )
    return arms


def _read_diagnosis(path: Path) -> tuple[dict[str, float | None], str | None]:
    """Return the figures and the verdict in a word or two; nothing where there is no file."""
    if not path.exists():
        return {}, None
    written = foreign_json.read(path)
    with foreign_json.damage(path, "diagnose again"):
        figures = {name: row["value"] for name, row in written["figures"].items()}
        for name, value in figures.items():
            if value is not None and not foreign_json.is_number(value):
                raise TypeError(f"{name} is no number")
        verdict = written["verdict"].partition(" (")[0].partition(";")[0]
        return figures, verdict


def _first_alarm(log: Path) -> int | None:
    """Return the step of the first alarm in a log; None if there is none, or no log."""
    if not log.exists():
        return None
    for row in foreign_json.lines(log):
        if row.get("alarms"):
            with foreign_json.damage(log):
                return int(row["step"])
    return None


def _lists(arms: Mapping[str, Arm]) -> list[str]:
    lists: set[str] = set()
    for arm in arms.values():
        lists.update(arm.eer)
    return sorted(lists)


def _ordered(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return the arms by the sum of their EERs, lowest first, the untrained encoder last."""
    lists = _lists(arms)

    def key(name: str) -> tuple[bool, float]:
        total = sum(arms[name].eer.get(trials, 50.0) for trials in lists)
        return name == UNTRAINED, total

    return {name: arms[name] for name in sorted(arms, key=key)}


def _correlations(arms: Mapping[str, Arm]) -> Correlations:
    """Correlate the order that each label-free criterion gives with that of the EERs."""
    if len(arms) < 3:
        return {}
    lists = _lists(arms)
    correlations: Correlations = {}
    for name, values in _criteria(arms).items():
        correlations[name] = {trials: _correlation(values, arms, trials) for trials in lists}
    return correlations


def _criteria(arms: Mapping[str, Arm]) -> dict[str, dict[str, float]]:
    """Return criterion -> arm -> value, lower = better."""
    figures = {name: _with_nan(arm.figures) for name, arm in arms.items()}
    criteria = {}
    for key, part in diagnostics().items():
        if part.better:
            sign = 1.0 if part.better == "lower" else -1.0
            criteria[key] = {name: sign * row.get(key, math.nan) for name, row in figures.items()}
    criteria["mean rank of all"] = dict(rank_models(figures))
    return criteria


def _with_nan(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in figures.items()}


def _correlation(values: Mapping[str, float], arms: Mapping[str, Arm], trials: str) -> float | None:
    known = [name for name in arms if trials in arms[name].eer and not math.isnan(values[name])]
    value = agreement([values[name] for name in known], [arms[name].eer[trials] for name in known])
    return None if math.isnan(value) else value


def _forecasts(arms: Mapping[str, Arm]) -> dict[str, Forecast]:
    """Return trial list -> the line through the EERs over the AUC of the spectrum, where there is one."""
    forecasts = {}
    for trials in _lists(arms):
        auc = []
        errors = []
        for arm in arms.values():
            value = arm.figures.get("spectrum_auc")
            if value is not None and trials in arm.eer:
                auc.append(value)
                errors.append(arm.eer[trials])
        line = forecast(auc, errors)
        if line is not None:
            forecasts[trials] = line
    return forecasts


def _forecast_table(forecasts: Mapping[str, Forecast]) -> list[str]:
    """Return title and table of the forecasts; nothing where there are none."""
    if not forecasts:
        return []
    rows = []
    for trials, line in forecasts.items():
        equation = f"{line.intercept:.1f} {line.slope:+.1f} x AUC"
        numbers = [f"{value:.2f}" for value in (line.r2, line.left_out, line.mean_left_out)]
        rows.append([trials, str(line.models), equation, *numbers])
    title = (
        "EER forecast from spectrum_auc by a line; error in points of EER, each arm left out of the"
        " fit in turn, beside that of the mean of the others:"
    )
    heads = ["", "arms", "EER %", "R2", "error of the line", "error of the mean"]
    return [title, markdown_table(heads, rows)]


def _markdown(arms: Mapping[str, Arm], correlations: Correlations) -> str:
    lists = _lists(arms)
    head = ["", *_error_columns(lists), *SHOWN_FIGURES, "verdict", "alarm at step", "seconds"]
    text = markdown_table(head, [_row(name, arm, lists) for name, arm in arms.items()])
    if not correlations:
        return text
    rows = []
    for name, row in correlations.items():
        rows.append([name, *(format_number(row.get(trials), 2) for trials in lists)])
    return "\n".join(
        [
            text,
            "",
            "How well a label-free figure orders the arms (Spearman with the EER, 1 = right):",
            "",
            markdown_table(["figure", *lists], rows),
        ]
    )


def _headlines() -> list[measures.Measure]:
    return [measure for measure in measures.MEASURES if measure.headline]


def _error_columns(lists: Sequence[str]) -> list[str]:
    """Return the headings of the errors; EERs are named by their trial list alone."""
    heads = []
    for measure in _headlines():
        prefix = "" if measure.name == "eer" else f"{measure.title}, "
        heads += [prefix + trials for trials in lists]
    return heads


def _row(name: str, arm: Arm, lists: Sequence[str]) -> list[str]:
    cells = [name]
    for measure in _headlines():
        values = arm.errors.get(measure.name, {})
        cells += [format_number(values.get(trials), 1) for trials in lists]
    for figure, digits in SHOWN_FIGURES.items():
        cells.append(format_number(arm.figures.get(figure), digits))
    alarm = "-" if arm.alarm is None else str(arm.alarm)
    return [*cells, arm.verdict or "-", alarm, format_number(arm.seconds, 0)]


def _draw(arms: Mapping[str, Arm], path: Path) -> None:
    """Draw the EER on each list with its interval, and the effective rank; the best at the top."""
    from speechssl.drawing.style import COLOURS, panels, plain, save

    lists = _lists(arms)
    names = [name for name in arms if name != UNTRAINED]
    names.reverse()
    size = (3.4 * (len(lists) + 1), 1.5 + 0.26 * len(names))
    figure, axes = panels(size, len(lists) + 1, share_y=True)
    is_collapsed = [(arms[name].verdict or "").startswith("collapsed") for name in names]
    colours = [COLOURS[1] if collapsed else COLOURS[0] for collapsed in is_collapsed]
    for axis, trials in zip(axes, lists, strict=False):
        for place, name in enumerate(names):
            _draw_rate(axis, arms[name], trials, place, colours[place])
        axis.set(title=plain(trials), xlabel="EER (%)")
        if UNTRAINED in arms and trials in arms[UNTRAINED].eer:
            floor = arms[UNTRAINED].eer[trials]
            axis.axvline(floor, color="0.3", linestyle="--", linewidth=1)
            interval = arms[UNTRAINED].errors.get("eer_interval", {}).get(trials)
            if interval is not None:
                axis.axvspan(*interval, color="0.5", alpha=0.12, lw=0, zorder=0)
    ranks = [arms[name].figures.get("effective_rank") or math.nan for name in names]
    axes[-1].scatter(ranks, range(len(names)), color=colours, s=28)
    known = [rank for rank in ranks if not math.isnan(rank)]
    axes[-1].set(
        title="effective rank", xlabel="directions", xlim=(0, 1.08 * max(known, default=1))
    )
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    axes[0].set_yticks(range(len(names)), [plain(name) for name in names])
    figure.suptitle(
        "bars and band: 95 % interval over speakers; dashed: untrained encoder; orange: verdict"
        " collapsed",
        fontsize="small",
    )
    save(figure, path)


def _draw_rate(axis: Axes, arm: Arm, trials: str, place: int, colour: str) -> None:
    """Draw the EER of an arm on a list as a dot, and its interval, where there is one, as a bar."""
    eer = arm.eer.get(trials)
    if eer is None:
        return
    axis.plot(eer, place, "o", color=colour, ms=5)
    interval = arm.errors.get("eer_interval", {}).get(trials)
    if interval is not None:
        axis.plot(interval, [place, place], "-", color=colour, lw=1.6)
