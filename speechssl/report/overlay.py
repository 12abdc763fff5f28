"""Detection error trade-off curves of all systems of an experiment over each other, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from speechssl.errors import UserError
from speechssl.report import det, plots
from speechssl.report.page.material import Material, PageSettings, SystemEvaluation, collect


class Drawn(NamedTuple):
    """Pictures that were written, and what could not be read for them, one line each."""

    files: list[Path]
    notes: list[str]


def draw_det(experiment: Path, out: Path) -> Drawn:
    """Draw the curves of all systems whose scores were kept, a picture for each trial list.

    Args:
        experiment: its folder.
        out: file to write; with several trial lists, their names come before its suffix.

    Raises:
        UserError: no evaluation kept its scores, or a picture cannot be written.
    """
    material = collect([experiment], (), PageSettings(), 0)
    lists = _by_list(material)
    if not lists:
        raise UserError(
            f"report: no evaluation in {experiment} has kept its scores and trials; `speechssl"
            " evaluate verification --out DIR` keeps them"
        )
    files = []
    for name, systems in lists.items():
        file = out if len(lists) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix}")
        scored: dict[str, plots.Scored] = {}
        for one in systems:
            assert one.scored is not None
            scored[one.system] = (one.scored.scores, one.scored.trials.target)
        plots.det_plot(scored, file, _bands(systems))
        files.append(file)
    return Drawn(files, material.notes)


def _by_list(material: Material) -> dict[str, list[SystemEvaluation]]:
    """Return trial list -> its evaluations with scores."""
    lists: dict[str, list[SystemEvaluation]] = {}
    for one in material.evaluations:
        if one.scored is not None:
            lists.setdefault(one.results.trials, []).append(one)
    return lists


def _bands(systems: list[SystemEvaluation]) -> dict[str, plots.Band]:
    if len(systems) > det.MOST_BANDS:
        return {}
    bands: dict[str, plots.Band] = {}
    for one in systems:
        rows = det.rows_of(one.curve or {})
        if len(rows):
            bands[one.system] = rows.tolist()
    return bands
