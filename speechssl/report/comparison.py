"""One table and one figure out of many methods trained alike (``recipes/methods``).

Reads ``EXP/eval/NAME/LIST/results.json``, ``EXP/diagnose/NAME/diagnostics.json`` and
``EXP/runs/NAME/log.jsonl``; writes ``EXP/comparison.md``, ``.json`` and ``.png``. The last lines
say how well each label-free figure orders the arms by their EER (Spearman's rank correlation, 1 =
the order is right), which is what choosing a model without labels rests on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.diagnostics.ranks import diagnostics
from speechssl.errors import UserError
from speechssl.report.diagnosis import agreement, rank_models

_SHOWN = ("rankme", "effective_rank", "centre_norm", "uniformity")


def compare(experiment: str | Path) -> str:
    """Write the comparison of an experiment and return its table as Markdown.

    Raises:
        UserError: nothing has been evaluated there.
    """
    experiment = Path(experiment)
    arms = {
        path.name: _arm(experiment, path.name)
        for path in sorted((experiment / "eval").glob("*"))
        if path.is_dir()
    }
    arms = {name: arm for name, arm in arms.items() if arm["eer"]}
    if not arms:
        raise UserError(
            f"report: no eval/NAME/LIST/results.json in {experiment}; evaluate some runs first"
        )
    lists = sorted({name for arm in arms.values() for name in arm["eer"]})
    order = sorted(arms, key=lambda name: (name == "untrained", _total(arms[name], lists)))
    trust = _trust({name: arms[name] for name in order if arms[name]["figures"]}, lists)
    text = _markdown(arms, order, lists, trust)
    (experiment / "comparison.md").write_text(text + "\n", encoding="utf-8")
    data = {"arms": {name: arms[name] for name in order}, "spearman": trust}
    (experiment / "comparison.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    _figure(arms, order, lists, experiment / "comparison.png")
    return text


def _arm(experiment: Path, name: str) -> dict[str, Any]:
    """All that is known of one arm."""
    arm: dict[str, Any] = {
        "eer": {},
        "eer_interval": {},
        "figures": {},
        "verdict": None,
        "alarm": None,
        "seconds": None,
    }
    for path in sorted((experiment / "eval" / name).glob("*/results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        arm["eer"][path.parent.name] = results["eer"]
        arm["eer_interval"][path.parent.name] = results.get("eer_interval")
    found = experiment / "diagnose" / name / "diagnostics.json"
    if found.exists():
        written = json.loads(found.read_text(encoding="utf-8"))
        arm["figures"] = {key: row["value"] for key, row in written["figures"].items()}
        arm["verdict"] = written["verdict"].partition(" (")[0].partition(";")[0]
    log = experiment / "runs" / name / "log.jsonl"
    if log.exists():
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        alarmed = [row["step"] for row in rows if row.get("alarms")]
        arm["alarm"] = alarmed[0] if alarmed else None
    seconds = experiment / "seconds.tsv"
    if seconds.exists():
        for line in seconds.read_text(encoding="utf-8").splitlines():
            stage, _, value = line.partition("\t")
            if stage == f"train-{name}":
                arm["seconds"] = float(value)
    return arm


def _total(arm: Mapping[str, Any], lists: list[str]) -> float:
    return sum(arm["eer"].get(name, 50.0) for name in lists)


def _trust(
    arms: Mapping[str, Mapping[str, Any]], lists: list[str]
) -> dict[str, dict[str, float | None]]:
    """Criterion -> list -> Spearman's correlation of the order it gives with that of the EERs."""
    if len(arms) < 3:
        return {}
    signs = {
        name: 1.0 if part.better == "lower" else -1.0
        for name, part in diagnostics().items()
        if part.better
    }
    figures = {
        name: {k: math.nan if v is None else v for k, v in arm["figures"].items()}
        for name, arm in arms.items()
    }
    criteria = {
        key: {name: sign * row.get(key, math.nan) for name, row in figures.items()}
        for key, sign in signs.items()
    }
    criteria["mean rank of all"] = dict(rank_models(figures))
    out: dict[str, dict[str, float | None]] = {}
    for key, values in criteria.items():
        row: dict[str, float | None] = {}
        for name in lists:
            pairs = [
                (values[arm], arms[arm]["eer"][name]) for arm in arms if name in arms[arm]["eer"]
            ]
            pairs = [pair for pair in pairs if not math.isnan(pair[0])]
            value = agreement([a for a, _ in pairs], [b for _, b in pairs])
            row[name] = None if math.isnan(value) else value
        out[key] = row
    return out


def _markdown(
    arms: Mapping[str, Any],
    order: list[str],
    lists: list[str],
    trust: Mapping[str, Mapping[str, float | None]],
) -> str:
    head = ["", *lists, *_SHOWN, "verdict", "alarm at step", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in order:
        arm = arms[name]
        cells = [name, *(_number(arm["eer"].get(n), 1) for n in lists)]
        cells += [_number(arm["figures"].get(key), 2 if "rank" not in key else 0) for key in _SHOWN]
        cells += [arm["verdict"] or "-", str(arm["alarm"] or "-"), _number(arm["seconds"], 0)]
        lines.append("| " + " | ".join(cells) + " |")
    if trust:
        lines += [
            "",
            "How well a label-free figure orders the arms (Spearman with the EER, 1 = right):",
            "",
        ]
        lines += ["| figure | " + " | ".join(lists) + " |", "|---|" + "---|" * len(lists)]
        for key, row in trust.items():
            lines.append(f"| {key} | " + " | ".join(_number(row.get(n), 2) for n in lists) + " |")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _figure(arms: Mapping[str, Any], order: list[str], lists: list[str], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from speechssl.report.plots import COLOURS

    names = [name for name in reversed(order) if name != "untrained"]
    figure = Figure(figsize=(4.2 * (len(lists) + 1), 0.8 + 0.24 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(lists) + 1, sharey=True, squeeze=False)[0]
    for axis, test in zip(axes, lists, strict=False):
        values = [arms[name]["eer"].get(test, math.nan) for name in names]
        collapsed = [(arms[name]["verdict"] or "").startswith("collapsed") for name in names]
        axis.barh(names, values, color=[COLOURS[1] if bad else COLOURS[0] for bad in collapsed])
        if test in arms.get("untrained", {"eer": {}})["eer"]:
            axis.axvline(arms["untrained"]["eer"][test], color="0.3", linestyle="--", linewidth=1)
        axis.set(title=f"EER %, {test}")
    ranks = [arms[name]["figures"].get("effective_rank") or math.nan for name in names]
    axes[-1].barh(names, ranks, color=COLOURS[2])
    axes[-1].set(title="effective rank")
    figure.suptitle("dashed: untrained encoder; orange: verdict collapsed")
    figure.savefig(path, dpi=110)
