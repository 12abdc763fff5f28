"""The record of an experiment: a row a model, trial list and scoring, with all that a comparison
needs.

Reads ``EXP/eval/NAME/LIST/results.json``; where its ``model`` is a model folder, that says method,
encoder, parameters, data, seed and commit. Writes ``EXP/record.json`` and ``EXP/record.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechssl import foreign_json
from speechssl.evaluation.verification import measures
from speechssl.files import model_folder
from speechssl.model import Model
from speechssl.report.results import (
    Evaluation,
    format_measure,
    markdown_table,
    measured,
    read_evaluations,
    write_json,
    write_markdown,
)

ABOUT_THE_SYSTEM = {
    "name": "system",
    "method": "method",
    "encoder": "encoder",
    "parameters": "parameters",
    "data": "training data",
    "labels_used": "labels used",
    "list": "trials",
    "scoring": "scoring",
}
"""Columns before the measures: key of a row -> heading."""

ABOUT_THE_RUN = {"seed": "seed", "commit": "commit"}
"""Columns after the measures."""

LOOKED_AT = "these trials, looked at during training"
"""Said of a list that the run was shown figures of while it trained (`heldout.trials`)."""

Row = dict[str, Any]


def record(experiment: str | Path) -> str:
    """Write the record and return it as Markdown.

    Raises:
        UserError: nothing has been evaluated there, or a results file is damaged.
    """
    experiment = Path(experiment)
    described: dict[str, Row] = {}
    rows = []
    for evaluation in read_evaluations(experiment):
        model = evaluation.results.get("model") or ""
        if model not in described:
            described[model] = _describe(model) if model else {}
        rows.append(_row(evaluation, described[model]))
    text = _markdown(rows)
    write_json(experiment / "record.json", rows)
    write_markdown(experiment / "record.md", text)
    return text + "\n"


def _row(evaluation: Evaluation, model: Row) -> Row:
    """Return one row: the results, and what is known of the model."""
    results = evaluation.results
    row: Row = {"name": evaluation.name, "list": evaluation.trials, **measured(results)}
    for key in ("trials", "trials_skipped", "scoring"):
        row[key] = results.get(key)
    labels_used = list(results.get("labels_used") or [])
    model_labels = model.get("labels", "not known")
    if model_labels != "none":
        labels_used.append(model_labels)
    digest = results.get("trials_sha256")
    if digest is not None and digest in model.get("trials_looked_at", []):
        labels_used.append(LOOKED_AT)
    row["labels_used"] = ", ".join(labels_used) or "none"
    row["model"] = results.get("model")
    return row | model


def _describe(path: str) -> Row:
    """Return what a model folder says of itself; nothing where there is none.

    Raises:
        UserError: the folder is damaged.
    """
    try:
        folder = model_folder(path)
        is_there = folder.existing() is not None
    except (OSError, ValueError):  # no path of this machine
        is_there = False
    if not is_there:
        return {}
    model = Model.load(folder.path.absolute())  # never an address, whatever the results name
    with foreign_json.damage(folder.config):
        return _described(model, model.about)


def _described(model: Model, about: Mapping[str, Any]) -> Row:
    encoder = model.settings["encoder"]
    encoder_name = encoder["name"]
    if "width" in encoder:
        encoder_name += f", width {encoder['width']}"
    data = about.get("data", {})
    looked_at = about.get("trials_looked_at", [])
    if not isinstance(looked_at, list):
        raise TypeError("about.trials_looked_at is no list")
    for key in ("method", "labels_used", "seed", "commit", "step", "speechssl"):
        if isinstance(about.get(key), list | dict):
            raise TypeError(f"about.{key} is a list or mapping")
    amount = None
    if data:
        amount = f"{data['utterances']:,} utterances, {data['hours']:.4g} h"
    is_untrained = about.get("step") == 0
    return {
        "method": "untrained" if is_untrained else about.get("method"),
        "encoder": encoder_name,
        "parameters": sum(p.numel() for p in model.encoder.parameters()),
        "data": amount,
        "data_fingerprint": data.get("fingerprint"),
        "labels": str(about.get("labels_used", "not known")),
        "trials_looked_at": looked_at,
        "steps": about.get("step"),
        "seed": about.get("seed"),
        "commit": about.get("commit"),
        "speechssl": about.get("speechssl"),
    }


def _markdown(rows: Sequence[Row]) -> str:
    """Return the table; measures that no row has (those of calibrated scores) get no column."""
    measured_somewhere: set[str] = set()
    for row in rows:
        measured_somewhere.update(row)
    shown = [measure for measure in measures.MEASURES if measure.name in measured_somewhere]
    head = [
        *ABOUT_THE_SYSTEM.values(),
        *(measure.title for measure in shown),
        *ABOUT_THE_RUN.values(),
    ]
    return markdown_table(head, [_cells(row, shown) for row in rows])


def _cells(row: Row, shown: Sequence[measures.Measure]) -> list[str]:
    return [
        *(_cell(row, key) for key in ABOUT_THE_SYSTEM),
        *(format_measure(measure, row) for measure in shown),
        *(_cell(row, key) for key in ABOUT_THE_RUN),
    ]


def _cell(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        return "-"
    if key == "parameters":
        return f"{value / 1e6:.2f} M"
    if key == "commit":
        commit = str(value)
        changed = "+" if commit.endswith("+") else ""
        return f"{commit[:10]}{changed}"
    return str(value)
