"""Read results.json, format its measures, and write tables: shared by all reports."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl import files, foreign_json, metrics
from speechssl.errors import UserError, writing
from speechssl.evaluation.verification import measures
from speechssl.text import markdown

Results = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What `speechssl evaluate verification --out EXP/eval/NAME/LIST` wrote.

    Attributes:
        name: which system.
        trials: which trial list.
        results: see `evaluation.verification.verify.evaluate`; `eer` is there and a number.
    """

    name: str
    trials: str
    results: Results


def read_results(path: Path) -> Results:
    """Return what a results.json holds.

    Raises:
        UserError: it is not JSON, no object, or too long.
    """
    try:
        return foreign_json.read(path, "evaluate again")
    except UserError as error:
        raise UserError(f"report: {error}") from error


def read_evaluations(experiment: Path) -> list[Evaluation]:
    """Return the evaluations of an experiment, the oldest file first.

    A results file that is damaged is left out with a warning, as long as another one is whole.

    Raises:
        UserError: there is none, or all are damaged.
    """
    for folder in (experiment, experiment / "eval"):
        files.refuse_unreadable_folder("report", folder)
    paths = sorted(experiment.glob("eval/*/*/results.json"), key=lambda p: p.lstat().st_mtime)
    found = []
    damaged = []
    for path in paths:
        try:
            found.append(read_evaluation(path))
        except UserError as error:
            damaged.append(error)
    if damaged and not found:
        raise damaged[0]
    for one in damaged:
        warnings.warn(f"{one}; left out", stacklevel=2)
    if not found:
        raise UserError(
            f"report: no eval/NAME/LIST/results.json in {experiment}; run `speechssl evaluate"
            " verification` with --out there first"
        )
    return found


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation in ``NAME/LIST/results.json``.

    Raises:
        UserError: the file is damaged.
    """
    results = read_results(path)
    if not foreign_json.is_number(results.get("eer")):
        raise UserError(f"report: {path} is damaged (no eer); evaluate again")
    for key in _wrong_types(results):
        raise UserError(
            f"report: {path} is damaged ({key} is {str(results[key])[:60]!r}); evaluate again"
        )
    return Evaluation(path.parents[1].name, path.parent.name, results)


def _wrong_types(results: Results) -> Iterator[str]:
    """Yield the keys that reports read, and whose values are not what an evaluation writes."""
    for measure in measures.MEASURES:
        if not _is_number_or_none(results.get(measure.name)):
            yield measure.name
        interval = results.get(f"{measure.name}_interval")
        is_pair = isinstance(interval, list) and len(interval) == 2
        if interval is not None and not (is_pair and all(map(foreign_json.is_number, interval))):
            yield f"{measure.name}_interval"
    for key in ("trials", "trials_skipped"):
        if not _is_number_or_none(results.get(key)):
            yield key
    for key in ("model", "scoring"):
        if not isinstance(results.get(key), str | None):
            yield key
    labels = results.get("labels_used") or []
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        yield "labels_used"


def _is_number_or_none(value: Any) -> bool:
    return value is None or foreign_json.is_number(value)


def measured(results: Results) -> dict[str, Any]:
    """Return `<name>` and `<name>_interval` of each measure of the table.

    A measure that was not computed is None; those of calibrated scores, and intervals that a
    measure never has, are left out where they are not in `results`.
    """
    found = {}
    for measure in measures.MEASURES:
        for key in (measure.name, f"{measure.name}_interval"):
            if key in results or not measure.needs_calibration:
                found[key] = results.get(key)
    return found


def format_measure(measure: measures.Measure, results: Results) -> str:
    """Return a measure as `4.38 [4.10, 4.62]`, or `-` where it was not computed."""
    value = results.get(measure.name)
    if value is None:
        return "-"
    spec = f".{measure.digits}f"
    interval = results.get(f"{measure.name}_interval")
    return f"{value:{spec}}{metrics.format_interval(interval, spec)}"


def format_number(value: float | None, digits: int, missing: str = "-") -> str:
    """Return a number with `digits` after the point, or `missing` for None and NaN."""
    if value is None or value != value:
        return missing
    return f"{value:.{digits}f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; whatever is in a cell is shown as text."""
    lines = [_markdown_row(head), "|" + "---|" * len(head)]
    lines += [_markdown_row(row) for row in rows]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + " |"


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    with writing(path):
        files.write_text(path, json.dumps(data, indent=2) + "\n")


def write_markdown(path: Path, text: str) -> None:
    """Write a text that has no newline at its end, whole or not at all."""
    with writing(path):
        files.write_text(path, text + "\n")
