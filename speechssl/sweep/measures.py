"""What a run of a sweep is measured by: figures of its log, and the results of its evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl import foreign_json
from speechssl.diagnostics.ranks import diagnostics
from speechssl.errors import UserError
from speechssl.evaluation.verification import measures
from speechssl.files import RunFolder

FIGURES = ("uniformity", "effective_rank", "rankme", "centre_norm", "loss")
"""Figures of the log, at its last step that has them; no label is behind them."""

OBJECTIVE = "uniformity"
"""What settings are searched for by, unless the user names something else.

It needs no label. Of the figures that a training logs, it orders the methods of recipes/methods best
by their error: Spearman's correlation is 0.85, 0.75 and 0.93 on the three trial lists there (RankMe:
0.91, 0.33 and 0.63; recipes/methods/README.md).
"""

CLASSIFICATION = {"micro_f1": "higher", "macro_f1": "higher", "uar": "higher"}


def measure(out: Path, name: str) -> dict[str, float]:
    """Return what is known of the run `name` of a sweep.

    Returns:
        Figures of the log by their names, `alarms` (how many), and `LIST/eer` and the like for each
        results.json in `eval/NAME/LIST`. What cannot be read is left out.
    """
    found = figures_of_log(RunFolder(out / "runs" / name).log)
    for path in sorted((out / "eval" / name).glob("*/results.json")):
        try:
            results = foreign_json.read(path)
        except UserError:
            continue
        for key in (*_directions(), *CLASSIFICATION):
            if foreign_json.is_number(results.get(key)):
                found[f"{path.parent.name}/{key}"] = float(results[key])
    return found


def figures_of_log(log: Path) -> dict[str, float]:
    """Return the last value of each of `FIGURES` and the number of alarms."""
    found: dict[str, float] = {}
    alarms = 0
    try:
        for entry in foreign_json.lines(log):
            alarms += bool(entry.get("alarms"))
            for key in FIGURES:
                if foreign_json.is_number(entry.get(key)):
                    found[key] = float(entry[key])
    except UserError:
        return {}
    found = {key: found[key] for key in FIGURES if key in found}
    return {**found, "alarms": float(alarms)}


def _directions() -> dict[str, str]:
    """Return measure of verification -> whether lower or higher is better."""
    return {one.name: "lower" for one in measures.MEASURES}


def better(name: str) -> str | None:
    """Return `lower` or `higher`, whichever is better for a measure; None: neither, or unknown."""
    key = name.rpartition("/")[2]
    known: Mapping[str, Any] = {
        **{figure: part.better for figure, part in diagnostics().items()},
        **_directions(),
        **CLASSIFICATION,
        "loss": "lower",
        "alarms": "lower",
    }
    return known.get(key)


def needs_labels(name: str) -> bool:
    """True for a measure of an evaluation."""
    return "/" in name
