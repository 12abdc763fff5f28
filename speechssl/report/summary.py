"""One small table out of many evaluations: a row a model, a column a trial list.

Reads what the evaluation commands wrote under an experiment, ``EXP/eval/MODEL/LIST/results.json``,
and, if a recipe kept it, ``EXP/seconds.tsv`` (stage, seconds). Writes ``EXP/results.json``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from speechssl.errors import UserError


def summarise(experiment: str | Path) -> str:
    """Gather the results of an experiment into ``results.json`` and return the table as text.

    With one trial list ``results.json`` has ``eer_<model>`` (percent) for every model; always
    ``eer``, ``eer_interval`` and ``min_dcf_0.01`` as model -> list -> value, and
    ``seconds_per_stage``.

    Raises:
        UserError: nothing has been evaluated there, or a results file is damaged.
    """
    experiment = Path(experiment)
    paths = sorted(experiment.glob("eval/*/*/results.json"), key=lambda p: p.stat().st_mtime)
    if not paths:
        raise UserError(
            f"report: no eval/MODEL/LIST/results.json in {experiment}; run `speechssl evaluate"
            " verification` with --out there first"
        )
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in paths:
        found.setdefault(path.parents[1].name, {})[path.parent.name] = _read(path)
    lists = sorted({name for row in found.values() for name in row})
    summary = _summary(found, lists) | {"seconds_per_stage": _seconds(experiment / "seconds.tsv")}
    temporary = experiment / ".results.json.tmp"
    temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, experiment / "results.json")
    return _table(found, lists)


def _read(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return {"eer": float(results["eer"]), **results}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"report: {path} is damaged ({error}); evaluate again") from error


def _summary(found: dict[str, dict[str, dict[str, Any]]], lists: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if len(lists) == 1:
        out = {
            f"eer_{model}": row[lists[0]]["eer"] for model, row in found.items() if lists[0] in row
        }
    for key in ("eer", "eer_interval", "min_dcf_0.01", "min_dcf_0.05"):
        out[key] = {
            model: {name: r.get(key) for name, r in row.items()} for model, row in found.items()
        }
    return out


def _seconds(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    rows = (
        line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if "\t" in line
    )
    return {stage: float(seconds) for stage, seconds in rows}


def _table(found: dict[str, dict[str, dict[str, Any]]], lists: list[str]) -> str:
    width = max(len(name) for name in ("EER %", *found))
    columns = [max(len(name), 20) for name in lists]
    lines = [
        "  ".join(
            ["EER %".ljust(width), *(n.ljust(w) for n, w in zip(lists, columns, strict=True))]
        )
    ]
    for model, row in found.items():
        cells = [_cell(row.get(name)).ljust(w) for name, w in zip(lists, columns, strict=True)]
        lines.append("  ".join([model.ljust(width), *cells]).rstrip())
    return "\n".join(lines)


def _cell(results: dict[str, Any] | None) -> str:
    if results is None:
        return "-"
    interval = results.get("eer_interval")
    spread = f"  [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
    return f"{results['eer']:5.2f}{spread}"
