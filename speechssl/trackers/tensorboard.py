"""TensorBoard: curves, alarms, crops to listen to and the embedding projector, in RUN/tensorboard.

Look at it with `tensorboard --logdir EXP`. Steps that a resumed run takes again replace what was
there (`purge_step`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from speechssl.errors import UserError
from speechssl.interfaces import TrackedRun, Tracker
from speechssl.text import markdown, printable


class TensorBoard(Tracker):
    """Writes event files.

    Args:
        sounds: crops of the first batch to listen to.
        embeddings: training utterances in the embedding projector; 0: none.
        embeddings_every: optimiser steps between two sets of them; 0: once, at the end.
    """

    REWINDS: ClassVar[bool] = True

    def __init__(
        self, *, sounds: int = 4, embeddings: int = 300, embeddings_every: int = 0
    ) -> None:
        if find_spec("tensorboard") is None:
            raise UserError(
                "tracker tensorboard: not installed; run: pip install 'speechssl[log]', or leave it"
                " out of train.trackers"
            )
        self.sounds = sounds
        self.embeddings = embeddings
        self.embeddings_every = embeddings_every
        self._writer: Any = None

    def open(self, run: TrackedRun) -> str:
        """Begin a file of events; what older files hold after the run's step is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=run.step + 1)
        if run.id is None:
            written = OmegaConf.to_yaml(OmegaConf.create({**run.settings, "about": run.about}))
            self._writer.add_text("configuration", _code_block(written), run.step)
        self._writer.flush()
        return "tensorboard"

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # TensorBoard's own is every two minutes: a kill would lose them

    def add_alarm(self, step: int, text: str) -> None:
        """Add a text."""
        self._writer.add_text("alarms", markdown(text), step)
        self._writer.flush()

    def add_sounds(
        self, step: int, sounds: Sequence[NDArray[np.float32]], names: Sequence[str], rate: int
    ) -> None:
        """Add sounds `crops/1`, `crops/2` ..., and their names as a text."""
        for number, sound in enumerate(sounds, 1):
            self._writer.add_audio(f"crops/{number}", sound[None], step, sample_rate=rate)
        lines = [f"{number}. {markdown(name)}" for number, name in enumerate(names, 1)]
        self._writer.add_text("crops", "\n".join(lines), step)
        self._writer.flush()

    def add_embeddings(
        self, step: int, embeddings: NDArray[np.float32], names: Sequence[str]
    ) -> None:
        """Add a tensor to the projector, one label a point."""
        labels = [printable(name) or "-" for name in names]  # one line each in a table
        self._writer.add_embedding(embeddings, metadata=labels, global_step=step, tag="embeddings")

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()


def _code_block(text: str) -> str:
    """Return text as a block of code in Markdown: an indented line is never markup."""
    return "\n".join("    " + printable(line) for line in text.splitlines())


PART = TensorBoard
