"""TensorBoard: curves, alarms, crops to listen to and the embedding projector, in RUN/tensorboard.

Look at it with `tensorboard --logdir EXP`. Steps that a resumed run takes again replace what was
there (`purge_step`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from speechssl.errors import UserError
from speechssl.files import write_text
from speechssl.interfaces import TrackedRun, Tracker
from speechssl.text import markdown, printable

_TENSOR = "embeddings:"
"""What the names of tensors in the projector begin with; their step follows."""


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
        self._folder = Path()

    def open(self, run: TrackedRun) -> str:
        """Begin a file of events; what older files hold after the run's step is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.folder / "tensorboard"
        self._writer = SummaryWriter(str(self._folder), purge_step=run.step + 1)
        if _projector_file(self._folder).is_file():
            _write_projector(self._folder, _projector(self._folder, below=run.step + 1))
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
        """Add a tensor to the projector, one label a point; one of the same step is replaced.

        torch's writer forgets, when a run is resumed, the tensors that it has written before.
        """
        inside = f"projector/step-{step:08d}"
        folder = self._folder / inside
        folder.mkdir(parents=True, exist_ok=True)
        numbers = io.StringIO()
        np.savetxt(numbers, embeddings, fmt="%.9g", delimiter="\t")
        write_text(folder / "tensors.tsv", numbers.getvalue())
        labels = [printable(name) or "-" for name in names]  # one line each in a table
        write_text(folder / "metadata.tsv", "\n".join(labels) + "\n")
        config = _projector(self._folder, below=step)
        entry = config.embeddings.add()
        entry.tensor_name = f"{_TENSOR}{step:08d}"
        entry.tensor_path = f"{inside}/tensors.tsv"
        entry.metadata_path = f"{inside}/metadata.tsv"
        _write_projector(self._folder, config)

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()


def _projector_file(folder: Path) -> Path:
    return folder / "projector_config.pbtxt"


def _projector(folder: Path, below: int) -> Any:
    """Return what the projector shows, without tensors of steps from `below` on."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    written = ProjectorConfig()
    if _projector_file(folder).is_file():
        text = _projector_file(folder).read_text(encoding="utf-8")
        try:
            text_format.Parse(text, written)
        except text_format.ParseError:
            written = ProjectorConfig()  # damaged: it begins anew
    kept = ProjectorConfig()
    for entry in written.embeddings:
        step = entry.tensor_name.removeprefix(_TENSOR)
        if step.isdecimal() and int(step) < below:
            kept.embeddings.add().CopyFrom(entry)
    return kept


def _write_projector(folder: Path, config: Any) -> None:
    from google.protobuf import text_format

    write_text(_projector_file(folder), text_format.MessageToString(config))


def _code_block(text: str) -> str:
    """Return text as a block of code in Markdown: an indented line is never markup."""
    return "\n".join("    " + printable(line) for line in text.splitlines())


PART = TensorBoard
