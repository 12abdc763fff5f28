"""Gather many evaluations into one small table: a row a model, a column a trial list.

Reads what the evaluation commands wrote under an experiment, ``EXP/eval/MODEL/LIST/results.json``,
and, if a recipe kept it, ``EXP/seconds.tsv`` (stage, seconds). Writes ``EXP/results.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl import foreign_json
from speechssl.evaluation.verification import measures
from speechssl.regular import read_text
from speechssl.report.results import (
    Evaluation,
    Results,
    format_measure,
    measured,
    read_evaluations,
    write_json,
)
from speechssl.text import printable


def summarise(experiment: str | Path) -> str:
    """Gather the results of an experiment into ``results.json`` and return the table as text.

    With one trial list ``results.json`` has ``eer_<model>`` (percent) for every model; always every
    measure and its interval (``eer``, ``eer_interval``, ...) as model -> list -> value, and
    ``seconds_per_stage``. The text has the headline measures only.

    Raises:
        UserError: nothing has been evaluated there, or all results files are damaged.
    """
    experiment = Path(experiment)
    evaluations = read_evaluations(experiment)
    summary = _summary(evaluations)
    summary["seconds_per_stage"] = read_seconds(experiment / "seconds.tsv")
    write_json(experiment / "results.json", summary)
    headlines = [measure for measure in measures.MEASURES if measure.headline]
    return "\n\n".join(_table(measure, evaluations) for measure in headlines)


def read_seconds(path: Path) -> dict[str, float]:
    """Return stage -> seconds, from lines ``stage<TAB>seconds``; nothing if there is no file."""
    if not path.exists():
        return {}
    seconds = {}
    text = read_text(path, "remove it, or write it again")
    with foreign_json.damage(path):
        for line in text.splitlines():
            stage, tab, value = line.partition("\t")
            if tab:
                seconds[stage] = float(value)
    return seconds


def _lists(evaluations: Sequence[Evaluation]) -> list[str]:
    return sorted({evaluation.trials for evaluation in evaluations})


def _summary(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return ``eer_<model>`` (with one list only), and measure -> model -> list -> value."""
    summary: dict[str, Any] = {}
    if len(_lists(evaluations)) == 1:
        for evaluation in evaluations:
            summary[f"eer_{evaluation.name}"] = evaluation.results["eer"]
    for evaluation in evaluations:
        for key, value in measured(evaluation.results).items():
            by_model = summary.setdefault(key, {})
            by_model.setdefault(evaluation.name, {})[evaluation.trials] = value
    return summary


def _table(measure: measures.Measure, evaluations: Sequence[Evaluation]) -> str:
    """Return the table of one measure; its title is in the corner."""
    lists = _lists(evaluations)
    by_model: dict[str, dict[str, Results]] = {}
    for evaluation in evaluations:
        by_model.setdefault(evaluation.name, {})[evaluation.trials] = evaluation.results
    rows = [[measure.title, *(printable(name) for name in lists)]]
    for model, by_list in by_model.items():
        cells = [format_measure(measure, by_list.get(name, {})) for name in lists]
        rows.append([printable(model), *cells])
    widths = [len(max(column, key=len)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()
