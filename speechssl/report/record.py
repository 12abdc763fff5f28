"""The record of an experiment: a row a model, trial list and scoring, with all that a comparison
    needs.

Reads ``EXP/eval/NAME/LIST/results.json``; where its ``model`` is a model folder, that says method,
encoder, parameters, data, seed and commit. Writes ``EXP/record.json`` and ``EXP/record.md``.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from speechssl import config
from speechssl.errors import UserError
from speechssl.model import CONFIG, WEIGHTS, Model

COLUMNS = {
    "name": "system",
    "method": "method",
    "encoder": "encoder",
    "parameters": "parameters",
    "data": "training data",
    "labels_used": "labels used",
    "list": "trials",
    "scoring": "scoring",
    "eer": "EER %",
    "min_dcf_0.01": "minDCF 0.01",
    "min_dcf_0.05": "minDCF 0.05",
    "seed": "seed",
    "commit": "commit",
}


def record(experiment: str | Path) -> str:
    """Write the record and return it as Markdown.

    Raises:
        UserError: nothing has been evaluated there, or a results file is damaged.
    """
    experiment = Path(experiment)
    paths = experiment.glob("eval/*/*/results.json")
    rows = [_row(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime)]
    if not rows:
        raise UserError(
            f"report: no eval/NAME/LIST/results.json in {experiment}; run `speechssl evaluate"
            " verification --out` there first"
        )
    lines = [f"| {' | '.join(COLUMNS.values())} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(_cell(row, key) for key in COLUMNS)} |" for row in rows]
    text = "\n".join(lines) + "\n"
    for name, content in (("record.json", json.dumps(rows, indent=2) + "\n"), ("record.md", text)):
        (experiment / f".{name}.tmp").write_text(content, encoding="utf-8")
        os.replace(experiment / f".{name}.tmp", experiment / name)
    return text


def _row(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        row = {"name": path.parents[1].name, "list": path.parent.name, "eer": float(found["eer"])}
        known = _model(found["model"]) if found.get("model") else {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"report: {path} is damaged ({error}); evaluate again") from error
    for key in ("eer_interval", "trials", "trials_skipped", "scoring"):
        row[key] = found.get(key)
    for key in ("min_dcf_0.01", "min_dcf_0.05"):
        row |= {key: found.get(key), f"{key}_interval": found.get(f"{key}_interval")}
    used = [
        *(found.get("labels_used") or []),
        *([] if known.get("labels") == "none" else [known.get("labels", "not known")]),
    ]
    return row | {"labels_used": ", ".join(used) or "none", "model": found.get("model"), **known}


@lru_cache
def _model(folder: str) -> dict[str, Any]:
    """What a model folder says of itself; nothing where there is none."""
    places = [
        place for place in (Path(folder), Path(folder) / "model") if (place / WEIGHTS).is_file()
    ]
    if not places:
        return {}
    about = config.read(places[0] / CONFIG).get("about", {})
    model = Model.load(folder)
    encoder = model.settings["encoder"]
    data = about.get("data", {})
    return {
        "method": about.get("method") if about.get("step") != 0 else "untrained",
        "encoder": f"{encoder['name']}, width {encoder['width']}"
        if "width" in encoder
        else encoder["name"],
        "parameters": sum(p.numel() for p in model.encoder.parameters()),
        "data": f"{data['utterances']:,} utterances, {data['hours']:.4g} h" if data else None,
        "data_fingerprint": data.get("fingerprint"),
        "labels": about.get("labels_used", "not known"),
        "steps": about.get("step"),
        "seed": about.get("seed"),
        "commit": about.get("commit"),
        "speechssl": about.get("speechssl"),
    }


def _cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return "-"
    if key == "parameters":
        return f"{value / 1e6:.2f} M"
    if key == "commit":
        return f"{value[:10]}{'+' if value.endswith('+') else ''}"
    if isinstance(value, float):
        digits = 2 if key == "eer" else 3
        interval = row.get(f"{key}_interval")
        spread = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
        return f"{value:.{digits}f}{spread}"
    return str(value)
