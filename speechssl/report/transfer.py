"""What embeddings know besides the speaker, in one table a corpus (``recipes/emotion``).

Reads ``EXP/probe/CORPUS/MODEL/LAYER/results.json`` (the labelled task), ``EXP/speakers/...``
(speakers, with the task's classes apart), ``EXP/verification/...`` (split by the label) and
``EXP/finetune/CORPUS/MODEL``; writes ``EXP/transfer.md`` and ``EXP/transfer.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.errors import UserError

_HEAD = (
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


def transfer(experiment: str | Path) -> str:
    """Write the tables of an experiment and return them as Markdown.

    Raises:
        UserError: nothing has been probed there.
    """
    experiment = Path(experiment)
    found = sorted((experiment / "probe").glob("*/*/*/results.json"))
    if not found:
        raise UserError(
            f"report: no probe/CORPUS/MODEL/LAYER/results.json in {experiment}; probe some first"
        )
    data: dict[str, Any] = {}
    for path in found:
        corpus, model, layer = path.parts[-4:-1]
        row = {"model": model, "layer": layer, "task": _read(path)}
        for part in ("speakers", "verification"):
            row[part] = _read(experiment / part / corpus / model / layer / "results.json")
        data.setdefault(corpus, {"rows": [], "finetune": {}})["rows"].append(row)
    for path in sorted((experiment / "finetune").glob("*/*/results.json")):
        corpus, model = path.parts[-3:-1]
        data.setdefault(corpus, {"rows": [], "finetune": {}})["finetune"][model] = _read(path)[
            "curve"
        ]
    text = "\n\n".join(_section(corpus, data[corpus]) for corpus in sorted(data))
    (experiment / "transfer.md").write_text(text + "\n", encoding="utf-8")
    (experiment / "transfer.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return text


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _section(corpus: str, data: Mapping[str, Any]) -> str:
    """Heading, what was measured, and the tables of one corpus."""
    task = data["rows"][0]["task"] if data["rows"] else {}
    lines = [f"## {corpus}", ""]
    if task:
        lines += [
            f"{task['utterances']} utterances, {task['groups']} speakers, {len(task['labels'])}"
            f" classes, {len(task['tested'])} speaker-disjoint folds; intervals over speakers, 95"
            " %.",
            "",
            "| " + " | ".join(_HEAD) + " |",
            "|" + "---|" * len(_HEAD),
            _line("majority class", "", task["majority"], "", "", "", "", ""),
        ]
    rows = sorted(data["rows"], key=lambda row: -row["task"]["macro_f1"])
    lines += [_row(row) for row in rows]
    if data["finetune"]:
        lines += ["", "Fine-tuned, macro-F1 by the share of the training labels:", ""]
        lines += _curves(data["finetune"])
    return "\n".join(lines)


def _row(row: Mapping[str, Any]) -> str:
    """One embedding: the task, the gain over the last one beside it, speakers, verification."""
    beside = list(row["task"].get("beside", {}).items())
    gain = ""
    if beside:
        name, other = beside[-1]
        gain = (
            f"{other['macro_f1_gain']:+.3f}{_interval(other['macro_f1_gain_interval'])} over {name}"
        )
    split = row["verification"].get("split", {}).get("rows", [])
    eers = {(r["targets"], r["nontargets"]): r["eer"] for r in split}
    return _line(
        row["model"],
        row["layer"],
        row["task"],
        gain,
        _number(row["speakers"].get("micro_f1"), 3),
        _number(row["verification"].get("eer"), 1),
        _number(eers.get(("same", "different")), 1),
        _number(eers.get(("different", "same")), 1),
    )


def _line(model: str, layer: str, task: Mapping[str, Any], *rest: str) -> str:
    macro = f"{task['macro_f1']:.3f}{_interval(task.get('macro_f1_interval'))}"
    cells = [model, layer, f"{task['micro_f1']:.3f}", macro, f"{task['uar']:.3f}", *rest]
    return "| " + " | ".join(cells) + " |"


def _curves(models: Mapping[str, list[Mapping[str, Any]]]) -> list[str]:
    """A row for each model and step, a column for each share of the labels."""
    shares = sorted({row["fraction"] for curve in models.values() for row in curve})
    head = ["model", "trained", *(f"{share:.0%}" for share in shares)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for model, curve in models.items():
        for step in dict.fromkeys(row["step"] for row in curve):
            cells = {row["fraction"]: row for row in curve if row["step"] == step}
            shown = [
                f"{cells[s]['macro_f1']:.3f}{_interval(cells[s]['macro_f1_interval'])}"
                if s in cells
                else "-"
                for s in shares
            ]
            lines.append("| " + " | ".join([model, step, *shown]) + " |")
    return lines


def _interval(interval: list[float] | None) -> str:
    return f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
