"""A picture of who speaks when: a row a speaker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechssl import compat
from speechssl.diarize.turns import Turn, seconds_of
from speechssl.errors import UserError
from speechssl.files import atomic_write

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#8c510a")
"""Told apart by colour-blind people, too (Okabe and Ito 2008)."""

_MOST_ROWS = 60
_BARS = 4000  # in a row, at most: four times as many as the picture has columns


def draw_timeline(
    turns: Sequence[Turn], path: str | Path, title: str, reference: Sequence[Turn] = ()
) -> None:
    """Draw turns.

    Args:
        turns: what was found.
        path: file to write; its ending chooses the format (.png, .svg, .pdf).
        title: of the figure.
        reference: true turns, drawn below.

    Raises:
        UserError: the file cannot be written, or its ending names no format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from speechssl.drawing.style import plain

    rows = [(name, turns, name) for name in seconds_of(turns)]
    rows += [(f"{name} (true)", reference, name) for name in seconds_of(reference)]
    rows = rows[:_MOST_ROWS]  # a reference may be somebody else's
    figure = Figure(figsize=(10, 1.2 + 0.35 * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    end = max((turn.stop for turn in (*turns, *reference)), default=0.0)
    for row, (_label, source, name) in enumerate(rows):
        bars = _bars([turn for turn in source if turn.speaker == name], end / _BARS)
        colour = _COLOURS[row % len(_COLOURS)] if source is turns else "0.6"
        axes.broken_barh(bars, (row - 0.4, 0.8), color=colour)
    axes.set_yticks(range(len(rows)), [plain(label) for label, _, _ in rows])
    axes.invert_yaxis()
    axes.set(xlabel="seconds", title=plain(title))
    axes.spines[["top", "right"]].set_visible(False)
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            compat.write_figure(figure, temporary)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: cannot be drawn ({error}); choose a folder that can be written and .png"
        ) from None


def _bars(turns: Sequence[Turn], narrowest: float) -> list[tuple[float, float]]:
    """Return (start, seconds) of the bars of a row; those with a gap that nobody would see are one.

    Args:
        turns: of one speaker.
        narrowest: gap that is drawn, seconds.
    """
    bars: list[tuple[float, float]] = []
    for turn in sorted(turns):
        if bars and turn.start - sum(bars[-1]) < narrowest:
            start = bars[-1][0]
            bars[-1] = (start, max(sum(bars[-1]), turn.stop) - start)
        else:
            bars.append((turn.start, turn.stop - turn.start))
    return bars
