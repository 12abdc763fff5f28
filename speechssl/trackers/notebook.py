"""Live curves under the cell of a Jupyter notebook, and RUN/curves.png wherever it runs.

The picture is drawn again as the training goes on, rarely enough that it takes no more than a tenth of
the time. The last one is kept in the run folder.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from speechssl import foreign_json
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.interfaces import TrackedRun, Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE_OF_TIME = 0.1
"""Most of a training's time that drawing may take."""


class Notebook(Tracker):
    """Draws the curves of a run while it goes on.

    Args:
        figures: keys of the log that are drawn; none: loss, entropy, KL, ranks and centre, as far as
            they are logged.
        seconds: at least so many pass between two pictures.
    """

    REWINDS: ClassVar[bool] = True

    def __init__(self, *, figures: tuple[str, ...] = (), seconds: float = 1.0) -> None:
        if find_spec("IPython") is None:
            raise UserError(
                "tracker notebook: IPython is not installed; run: pip install 'speechssl[notebooks]',"
                " or leave it out of train.trackers"
            )
        self.figures = figures
        self.seconds = seconds
        self._entries: dict[int, dict[str, Any]] = {}
        self._name = ""
        self._folder = Path()
        self._display: Any = None
        self._next_at = 0.0

    def open(self, run: TrackedRun) -> str:
        """Begin a picture; of a run that is resumed, with what its log has so far."""
        self._name = run.folder.resolve().name
        self._folder = run.folder
        for _, entry in foreign_json.lines_up_to(RunFolder(run.folder).log, run.step):
            self._entries[entry["step"]] = entry
        return "notebook"

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to each curve, and draw them if it is time."""
        self._entries.setdefault(step, {"step": step}).update(figures)
        self._draw_if_due()

    def add_alarm(self, step: int, text: str) -> None:
        """Add a cross."""
        self._entries.setdefault(step, {"step": step}).setdefault("alarms", []).append(text)

    def close(self, finished: bool) -> None:
        """Draw everything for the last time, and keep it as RUN/curves.png."""
        figure = self._figure()
        if figure is not None:
            from speechssl.drawing.style import save

            self._show(figure)
            save(figure, self._folder / "curves.png")

    def _draw_if_due(self) -> None:
        began = time.monotonic()
        if not _is_notebook() or began < self._next_at:
            return
        figure = self._figure()
        if figure is not None:
            self._show(figure)
        ended = time.monotonic()
        self._next_at = ended + max(self.seconds, (ended - began) / SHARE_OF_TIME)

    def _figure(self) -> Figure | None:
        """Return the picture; None while there is nothing to draw."""
        from speechssl.drawing.curves import curves_plot

        try:
            return curves_plot({self._name: list(self._entries.values())}, self.figures)
        except UserError:  # none of the figures has been logged
            return None

    def _show(self, figure: Figure) -> None:
        """Show a figure in place of the one before."""
        if not _is_notebook():
            return
        import IPython.display

        show: Any = IPython.display.display
        data = {"image/png": _png(figure), "text/plain": f"<curves of {self._name}>"}
        if self._display is None:
            self._display = show(data, raw=True, display_id=True)
        else:
            self._display.update(data, raw=True)


def _is_notebook() -> bool:
    """Return whether somebody's notebook runs this process, and shows pictures."""
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()


PART = Notebook
