"""What embeddings know besides the speaker, in one table a corpus (``recipes/emotion``).

Reads ``EXP/probe/CORPUS/MODEL/LAYER/results.json`` (the labelled task), ``EXP/speakers/...``
(speakers, with the task's classes apart), ``EXP/verification/...`` (split by the label) and
``EXP/finetune/CORPUS/MODEL``; writes ``EXP/transfer.md`` and ``EXP/transfer.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechssl import foreign_json
from speechssl.errors import UserError
from speechssl.metrics import format_interval
from speechssl.report.results import (
    Results,
    format_number,
    markdown_table,
    read_results,
    write_json,
    write_markdown,
)
from speechssl.text import markdown

HEAD = (
    "model",
    "layer",
    "micro-F1",
    "macro-F1",
    "UAR",
    "gain",
    "speaker",
    "EER %",
    "same",
    "different",
)
"""Columns; the last two are EERs where targets share the label and non-targets do not, and the
other way round.
"""


def transfer(experiment: str | Path) -> str:
    """Write the tables of an experiment and return them as Markdown.

    Raises:
        UserError: nothing has been probed there, or a results file is damaged.
    """
    experiment = Path(experiment)
    corpora = _read(experiment)
    with foreign_json.damage(experiment, "one of its results.json is no result; probe again"):
        text = "\n\n".join(_section(name, corpora[name]) for name in sorted(corpora))
    write_markdown(experiment / "transfer.md", text)
    write_json(experiment / "transfer.json", corpora)
    return text


def _read(experiment: Path) -> dict[str, Any]:
    """Return corpus -> its ``rows`` (one an embedding) and ``finetune`` (model -> curve)."""
    probes = sorted((experiment / "probe").glob("*/*/*/results.json"))
    if not probes:
        raise UserError(
            f"report: no probe/CORPUS/MODEL/LAYER/results.json in {experiment}; probe some first"
        )
    corpora: dict[str, Any] = {}
    for path in probes:
        corpus, model, layer = path.parts[-4:-1]
        row: dict[str, Any] = {"model": model, "layer": layer, "task": read_results(path)}
        for part in ("speakers", "verification"):
            other = experiment / part / corpus / model / layer / "results.json"
            row[part] = read_results(other) if other.exists() else {}
        _of_corpus(corpora, corpus)["rows"].append(row)
    for path in sorted((experiment / "finetune").glob("*/*/results.json")):
        corpus, model = path.parts[-3:-1]
        with foreign_json.damage(path, "fine-tune again"):
            _of_corpus(corpora, corpus)["finetune"][model] = read_results(path)["curve"]
    return corpora


def _of_corpus(corpora: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = corpora.setdefault(name, {"rows": [], "finetune": {}})
    return found


def _section(corpus: str, data: Mapping[str, Any]) -> str:
    """Return heading, what was measured, and the tables of one corpus."""
    lines = [f"## {markdown(corpus)}", ""]
    rows = sorted(data["rows"], key=lambda row: -row["task"]["macro_f1"])
    if rows:
        task = data["rows"][0]["task"]
        majority = _task_cells("majority class", "", task["majority"]) + [""] * 5
        lines += [
            f"{int(task['utterances'])} utterances, {int(task['groups'])} speakers, {len(task['labels'])}"
            f" classes, {len(task['tested'])} speaker-disjoint folds; intervals over speakers, 95"
            " %.",
            "",
            markdown_table(HEAD, [majority, *(_row(row) for row in rows)]),
        ]
    if data["finetune"]:
        lines += ["", "Fine-tuned, macro-F1 by the share of the training labels:", ""]
        lines.append(_curves(data["finetune"]))
    return "\n".join(lines)


def _row(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one embedding: task, gain, speakers, verification."""
    eers = {
        (part["targets"], part["nontargets"]): part["eer"]
        for part in row["verification"].get("split", {}).get("rows", [])
    }
    return [
        *_task_cells(row["model"], row["layer"], row["task"]),
        _gain(row["task"].get("beside", {})),
        format_number(row["speakers"].get("micro_f1"), 3, missing=""),
        format_number(row["verification"].get("eer"), 1, missing=""),
        format_number(eers.get(("same", "different")), 1, missing=""),
        format_number(eers.get(("different", "same")), 1, missing=""),
    ]


def _task_cells(model: str, layer: str, task: Results) -> list[str]:
    return [
        model,
        layer,
        format_number(task["micro_f1"], 3),
        _macro_f1(task),
        format_number(task["uar"], 3),
    ]


def _macro_f1(results: Mapping[str, Any]) -> str:
    return f"{results['macro_f1']:.3f}{format_interval(results.get('macro_f1_interval'), '.3f')}"


def _gain(others: Mapping[str, Results]) -> str:
    """Return the gain over the last of the other embeddings on the same folds, if any."""
    if not others:
        return ""
    name, other = list(others.items())[-1]
    interval = format_interval(other["macro_f1_gain_interval"], ".3f")
    return f"{other['macro_f1_gain']:+.3f}{interval} over {name}"


def _curves(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a table with a row for each model and step, a column for each share of the labels."""
    fractions: set[float] = set()
    for curve in models.values():
        fractions.update(point["fraction"] for point in curve)
    shares = sorted(fractions)
    rows = []
    for model, curve in models.items():
        steps = dict.fromkeys(point["step"] for point in curve)
        for step in steps:
            points = {point["fraction"]: point for point in curve if point["step"] == step}
            cells = [_macro_f1(points[share]) if share in points else "-" for share in shares]
            rows.append([model, step, *cells])
    return markdown_table(["model", "trained", *(f"{share:.0%}" for share in shares)], rows)
