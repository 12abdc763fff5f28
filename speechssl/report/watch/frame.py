"""One frame of a run in the terminal: bar, a curve for each figure, alarms in colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from speechssl.report.watch.following import Watched
from speechssl.text import printable

if TYPE_CHECKING:  # rich is in the extra [log]; the page does without it
    from rich.console import RenderableType

FIGURES = {
    "loss": "loss",
    "heldout_eer": "held-out EER %",
    "heldout_eer_centred": "EER %, centred",
    "teacher_entropy": "teacher entropy",
    "kl": "KL",
    "effective_rank": "effective rank",
    "heldout_effective_rank": "held-out rank",
    "rankme": "RankMe",
    "projection_rank": "projection rank",
    "centre_norm": "centre norm",
    "uniformity": "uniformity",
    "heldout_uniformity": "held-out uniformity",
    "lr": "learning rate",
    "gradient_norm": "gradient norm",
    "data_wait": "data wait",
    "utterances_per_second": "utterances / s",
}
"""Keys of the log that are shown, and what they are called."""

MOST_ALARMS = 5
"""Alarms that are shown, the latest."""

_WIDE = 100  # columns of a terminal that has room for all figures

_BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = "·"

_LEAST_CHANGE = 0.1  # share of the largest value that fills the height of a curve, or more


def frame(run: Watched, width: int) -> RenderableType:
    """Return what the terminal shows of a run.

    Args:
        run: as it stands.
        width: columns of the terminal.
    """
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    parts: list[RenderableType] = [_progress(run, width), _curves(run, width), *_alarms(run)]
    for note in _notes(run):
        parts.append(Text(printable(note)[:500], style="yellow"))
    title = Text(printable(run.name)[:100], style="bold")
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED)


def _progress(run: Watched, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = run.steps or 0.0
    said = f"step {run.log.step:.0f}"
    if total:
        said += f" of {total:.0f}"
    left = run.seconds_left()
    since = run.seconds_since_last()
    if run.is_finished:
        said += ", finished"
    elif left is not None:
        said += f", {duration(left)} left"
    if since is not None and not run.is_finished:
        said += f", logged {duration(since)} ago"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        ProgressBar(
            total=total or 1.0, completed=min(run.log.step, total), width=max(10, width // 3)
        ),
        Text(said),
    )
    return grid


def _curves(run: Watched, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    heads = ["", "curve", "first", "last"]
    if width >= _WIDE:
        heads += ["lowest", "highest"]
    for name in heads:
        table.add_column(name, justify="left" if name in ("", "curve") else "right", no_wrap=True)
    room = max(8, min(80, width - 28 - 11 * (len(heads) - 2)))
    room = min(room, max((len(run.points(key)) for key in FIGURES), default=room))
    for key, title in FIGURES.items():
        points = run.points(key)
        values = [value for _, value in points]
        if values:
            known = [value for value in values if not math.isnan(value)]
            low = min(known, default=math.nan)
            high = max(known, default=math.nan)
            style = "bold red" if math.isnan(values[-1]) else "bold"
            last = Text(_number(values[-1], key), style=style)
            curve = Text(sparkline(by_step(points, run.log.step, room)), style="cyan")
            cells: list[str | Text] = [
                title,
                curve,
                _number(values[0], key),
                last,
                _number(low, key),
                _number(high, key),
            ]
            table.add_row(*cells[: len(heads)])
    if not table.row_count:
        return Text("nothing logged yet", style="dim")
    return table


def _alarms(run: Watched) -> list[RenderableType]:
    from rich.text import Text

    shown: list[RenderableType] = []
    alarms = run.log.alarms
    if len(alarms) > MOST_ALARMS:
        shown.append(Text(f"{len(alarms) - MOST_ALARMS} earlier alarms", style="red"))
    for step, alarm in alarms[-MOST_ALARMS:]:
        shown.append(Text(f"step {step:.0f}: {printable(alarm)}"[:600], style="bold red"))
    return shown


def _notes(run: Watched) -> list[str]:
    notes = list(run.notes)
    if run.log.broken:
        notes.append(f"log.jsonl: {run.log.broken} lines are no entries and are left out")
    return notes


def by_step(points: Sequence[tuple[float, float]], last: float, count: int) -> list[float]:
    """Return a value for each of `count` equal spans of steps, so that curves stand below each other.

    It is the mean of the points in the span, or else the value of the span before (a figure that is
    measured more rarely); NaN where there is none yet.

    Args:
        points: (step, value) in the order of the steps.
        last: step at the end of the last span.
        count: of spans.
    """
    spans: list[list[float]] = [[] for _ in range(count)]
    for step, value in points:
        place = math.ceil(step / last * count) - 1 if last > 0 else 0
        spans[min(max(place, 0), count - 1)].append(value)
    values = []
    before = math.nan
    for span in spans:
        known = [value for value in span if not math.isnan(value)]
        if known:
            before = sum(value / len(known) for value in known)
        elif span:
            before = math.nan
        values.append(before)
    return values


def sparkline(values: Sequence[float]) -> str:
    """Return values as blocks of eight heights, a gap for NaN; a change of a few percent is drawn
    small.
    """
    known = [value for value in values if not math.isnan(value)]
    low = min(known, default=0.0)
    high = max(known, default=0.0)
    span = max(high / 2 - low / 2, _LEAST_CHANGE / 2 * max(abs(low), abs(high)))
    middle = low / 4 + high / 4  # halves and quarters: no overflow
    letters = []
    for value in values:
        if math.isnan(value):
            letters.append(_GAP)
        else:
            height = 0.5 + (value / 2 - middle) / span if span > 0 else 0.5
            letters.append(_BLOCKS[min(7, int(height * 8))])
    return "".join(letters)


def duration(seconds: float) -> str:
    """Return a duration as people say it: `12 s`, `3.4 min`, `2.1 h`, `3.0 days`."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size == 1 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _number(value: float, key: str) -> str:
    if math.isnan(value):
        return "nan"
    return f"{value:.1%}" if key == "data_wait" else f"{value:.4g}"
