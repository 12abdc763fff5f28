"""What was run: code, data, labels, time, and the settings in which the runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechssl.config import thaw
from speechssl.errors import UserError
from speechssl.report.page import untrusted
from speechssl.report.page.blocks import Block, Row, Table, Text
from speechssl.report.page.material import Material, Run
from speechssl.report.page.section import Section
from speechssl.report.watch.frame import duration
from speechssl.train.settings import complete

NOT_SET = "-"

WITHOUT_DEFAULT = (("data", "crops"), ("train", "steps"), ("train", "epochs"))
"""Settings that every run must give: they are taken as they are."""


def build(material: Material) -> Sequence[Block]:
    """Return a table of the runs, one of their differences, and one of the seconds."""
    blocks: list[Block] = []
    if material.runs:
        blocks.append(_runs(material.runs))
        blocks += _settings(material)
    blocks += _seconds(material)
    return blocks


def _runs(runs: Sequence[Run]) -> Table:
    head = [
        "run",
        "method",
        "steps",
        "data",
        "fingerprint",
        "labels used",
        "seed",
        "commit",
        "version",
    ]
    rows = []
    for run in runs:
        data = untrusted.mapping(run.about, "data")
        hours = untrusted.number(data, "hours")
        amount = f"{untrusted.text(data, 'utterances')} utterances"
        if hours is not None:
            amount += f", {duration(3600 * hours)}"
        where = ", ".join(str(one) for one in untrusted.items(data, "directories"))
        commit = untrusted.text(run.about, "commit")
        steps = untrusted.shown(untrusted.number(run.log[-1], "step"), "g") if run.log else "0"
        cells = [
            run.name,
            untrusted.text(run.about, "method"),
            steps,
            f"{amount} ({where})" if where else amount,
            untrusted.text(data, "fingerprint"),
            untrusted.text(run.about, "labels_used"),
            untrusted.text(run.about, "seed"),
            commit[:10] + ("+" if commit.endswith("+") else ""),
            untrusted.text(run.about, "speechssl"),
        ]
        rows.append(Row(cells, run.name))
    return Table("Runs (+ after a commit: files had been changed since)", head, rows)


def _settings(material: Material) -> list[Block]:
    """Return the settings in which runs differ, or a single run's that are no defaults."""
    runs = [run for run in material.runs if run.settings]
    if not runs:
        return []
    flat = {run.name: flattened(run.settings) for run in runs}
    if len(flat) == 1:
        return _against_defaults(material, runs[0])
    keys = sorted({key for settings in flat.values() for key in settings})
    rows = []
    for key in keys:
        values = [settings.get(key, NOT_SET) for settings in flat.values()]
        if len(set(values)) > 1:
            rows.append(Row([key, *values]))
    if not rows:
        return [Text("The configurations of the runs are the same.", "note")]
    return [Table("Settings in which the runs differ", ["setting", *flat], rows)]


def _against_defaults(material: Material, run: Run) -> list[Block]:
    defaults = material.attempt(lambda: _defaults(run.settings))
    if defaults is None:
        return []
    rows = []
    for key, value in flattened(run.settings).items():
        default = defaults.get(key, NOT_SET)
        if value != default:
            rows.append(Row([key, value, default]))
    caption = f"Settings of {run.name} that are not the defaults"
    return [Table(caption, ["setting", "value", "default"], rows)]


def _defaults(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a run in which only data and the names of parts are given.

    Raises:
        UserError: the run names parts that this package does not have.
    """
    written: dict[str, Any] = {"data": {"train": ["-"]}, "train": {}}
    for section, key in WITHOUT_DEFAULT:
        value = untrusted.mapping(settings, section).get(key)
        if value is not None:
            written[section][key] = value
    for section in ("method", "encoder", "features"):
        name = untrusted.mapping(settings, section).get("name")
        if isinstance(name, str):
            if ":" in name:  # a part of somebody else's is not imported for a page
                raise UserError(f"{section} {name} is no part of this package: no defaults known")
            written[section] = {"name": name}
    return flattened(thaw(complete(written)))


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return `a.b.c` -> value as text, for every value of nested mappings."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{name}.")
        else:
            flat[name] = str(value)[:2000]
    return flat


def _seconds(material: Material) -> list[Block]:
    rows = []
    for experiment, stages in material.seconds.items():
        for stage, seconds in stages.items():
            rows.append(Row([experiment, stage, f"{seconds:,.0f}"]))
    if not rows:
        return []
    return [Table("Seconds of each stage", ["experiment", "stage", "seconds"], rows)]


SECTION = Section("What was run", 10, build)
