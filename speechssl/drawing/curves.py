"""Curves of trainings: a panel for each figure of the log, a line for each run, a cross at each alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from speechssl import foreign_json
from speechssl.drawing.style import grid_of_panels, legend_below, line_styles, plain, save
from speechssl.errors import UserError
from speechssl.files import RunFolder

TITLES = {
    "loss": "loss",
    "heldout_eer": "EER of held-out trials (%)",
    "heldout_eer_centred": "EER of held-out trials (%), centred",
    "teacher_entropy": "entropy of the teacher (nats)",
    "kl": "KL of student and teacher (nats)",
    "mean_assignment_entropy": "entropy of the mean assignment (nats)",
    "used_prototypes": "prototypes in use",
    "effective_rank": "effective rank of the embeddings",
    "heldout_effective_rank": "effective rank of held-out embeddings",
    "rankme": "RankMe of the embeddings",
    "projection_rank": "effective rank of the projections",
    "centre_norm": "norm of the mean embedding",
    "deviation": "deviation per dimension x sqrt(D)",
    "uniformity": "uniformity",
    "heldout_uniformity": "uniformity of held-out embeddings",
    "lr": "learning rate",
    "gradient_norm": "norm of the gradient",
    "utterances_per_second": "utterances per second",
    "data_wait": "share of time waiting for data",
}
"""Figures of `log.jsonl` and what their panels are called; others are called as they are."""

USUAL = (
    "loss",
    "heldout_eer",
    "teacher_entropy",
    "kl",
    "effective_rank",
    "projection_rank",
    "centre_norm",
)
"""Figures that are drawn if none are named, as far as the logs have them."""

RANGES: dict[str, tuple[float, float | None]] = {
    "teacher_entropy": (0.0, None),
    "mean_assignment_entropy": (0.0, None),
    "kl": (0.0, None),
    "used_prototypes": (0.0, None),
    "heldout_eer": (0.0, None),
    "heldout_eer_centred": (0.0, None),
    "effective_rank": (0.0, None),
    "heldout_effective_rank": (0.0, None),
    "rankme": (0.0, None),
    "projection_rank": (0.0, None),
    "centre_norm": (0.0, 1.05),
    "deviation": (0.0, 1.1),
    "lr": (0.0, None),
    "gradient_norm": (0.0, None),
    "utterances_per_second": (0.0, None),
    "data_wait": (0.0, 1.0),
}
"""Ends of the axes, where a figure has natural ones: a small change then looks small."""

Entry = Mapping[str, Any]
"""A line of `log.jsonl`: ``step``, figures, perhaps ``alarms``."""


class _Curve(NamedTuple):
    """One figure of one run.

    Attributes:
        points: (step, value), without those that are not finite.
        alarms: (step, the value at it or last before it).
    """

    points: list[tuple[float, float]]
    alarms: list[tuple[float, float]]


def read_log(run: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a training's log, for a table (``pandas.DataFrame(read_log("exp/mine"))``).

    Args:
        run: the run folder.

    Raises:
        UserError: it has no log, or one that is damaged.
    """
    return list(foreign_json.lines(RunFolder(run).log))


def curves_plot(
    runs: Mapping[str, str | Path | Sequence[Entry]],
    figures: Sequence[str] = (),
    *,
    known: Mapping[str, float] | None = None,
    logarithmic: Sequence[str] = (),
    path: str | Path | None = None,
) -> Figure:
    """Draw figures of one or more trainings over their steps.

    Args:
        runs: name -> run folder, or the entries of its log (`read_log`).
        figures: keys of the log; none: `USUAL`, as far as they are there.
        known: key -> a value that is known from theory, drawn as a dotted line.
        logarithmic: keys whose axis is logarithmic.
        path: file to write; None: the figure is only returned.

    Raises:
        UserError: a log is missing or damaged, or no run has any of the figures.
    """
    logs = {}
    for name, run in runs.items():
        logs[name] = read_log(run) if isinstance(run, str | Path) else run
    keys = []
    for key in figures or USUAL:
        if any(_curve(log, key).points for log in logs.values()):
            keys.append(key)
    if not keys:
        raise UserError(
            f"curves: no run has logged any of {', '.join(figures or USUAL)}; give figures of log.jsonl"
        )
    columns = 2 if len(keys) == 4 else min(3, len(keys))
    figure, all_axes = grid_of_panels((4.1, 3.0), len(keys), columns)
    for axes, key in zip(all_axes, keys, strict=True):
        _draw(axes, logs, key)
        if known and key in known:
            axes.axhline(known[key], color="0.25", lw=1.2, ls=":", zorder=1)
        if key in logarithmic:
            axes.set_yscale("log")
        elif key in RANGES:
            bottom, top = RANGES[key]
            highest = max(axes.dataLim.y1, (known or {}).get(key, 0.0))
            axes.set_ylim(bottom, 1.08 * highest if top is None and highest > 0 else top)
        axes.set(title=TITLES.get(key, key), xlabel="step")
    _add_legend(figure, all_axes[0], logs, known)
    if path is not None:
        save(figure, path)
    return figure


def _draw(axes: Axes, logs: Mapping[str, Sequence[Entry]], key: str) -> None:
    for style, log in zip(line_styles(len(logs)), logs.values(), strict=True):
        curve = _curve(log, key)
        if curve.points:
            mark = "o" if len(curve.points) == 1 else None  # a line of one point is not seen
            axes.plot(*zip(*curve.points, strict=True), **style, lw=1.6, marker=mark, ms=5)
        if curve.alarms:
            places = zip(*curve.alarms, strict=True)
            axes.plot(*places, "X", color=style["color"], ms=9, mec="white", mew=0.8, zorder=3)


def _add_legend(
    figure: Figure,
    axes: Axes,
    logs: Mapping[str, Sequence[Entry]],
    known: Mapping[str, float] | None,
) -> None:
    """Name the runs, what a cross is, and what a dotted line is, below all panels."""
    for style, name in zip(line_styles(len(logs)), logs, strict=True):
        axes.plot([], [], **style, lw=1.6, label=plain(name))
    if any(entry.get("alarms") for log in logs.values() for entry in log):
        axes.plot([], [], "X", color="0.35", ms=9, mec="white", ls="none", label="alarm")
    if known:
        axes.plot([], [], color="0.25", lw=1.2, ls=":", label="known answer")
    legend_below(figure, 4)


def _curve(log: Sequence[Entry], key: str) -> _Curve:
    points = []
    alarms = []
    last: float | None = None
    for entry in log:
        value = _finite(entry.get(key))
        step = _finite(entry.get("step"))
        if step is None:
            continue
        if value is not None:
            last = value
            points.append((step, value))
        if entry.get("alarms") and last is not None:
            alarms.append((step, last))
    return _Curve(points, alarms)


def _finite(value: Any) -> float | None:
    is_finite = foreign_json.is_number(value) and math.isfinite(value)
    return float(value) if is_finite else None
