"""Weights & Biases, online or offline (RUN/wandb, for `wandb sync` later).

Without a login a run is kept offline: training never waits for somebody to type a key. Offline, each
part of a run that was resumed is a folder of its own with the same id, which `wandb sync` joins.
Nothing is collected but what is given here: no code, no console output, no description of the
machine, no graphs of its load.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.interfaces import TrackedRun, Tracker
from speechssl.text import printable

Mode = Literal["online", "offline", "disabled"]


class WeightsAndBiases(Tracker):
    """Logs to a run of Weights & Biases.

    Args:
        project: where the run is shown.
        entity: user or team; null: your default one.
        group: runs of one group are shown together.
        mode: ``online``, ``offline``, or ``auto``: as WANDB_MODE says (``disabled``, too), else
            online if you are logged in, else offline.
        sounds: crops of the first batch to listen to.
        embeddings: training utterances in a table of embeddings; 0: none.
        embeddings_every: optimiser steps between two tables; 0: one, at the end.
    """

    def __init__(
        self,
        *,
        project: str = "speechssl",
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["auto", "online", "offline"] = "auto",
        sounds: int = 4,
        embeddings: int = 300,
        embeddings_every: int = 0,
    ) -> None:
        if find_spec("wandb") is None:
            raise UserError(
                "tracker wandb: not installed; run: pip install 'speechssl[track]', or leave it out"
                " of train.trackers"
            )
        self.project = project
        self.entity = entity
        self.group = group
        self.mode = mode
        self.sounds = sounds
        self.embeddings = embeddings
        self.embeddings_every = embeddings_every
        self._run: Any = None

    def open(self, run: TrackedRun) -> str:
        """Begin or continue a run."""
        if self.mode == "offline":  # before the import: it may report its own errors
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        identity = run.id or secrets.token_hex(4)  # not `random`: its state is the user's
        mode = self._chosen_mode(wandb)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            id=identity,
            name=printable(run.name),
            config={**run.settings, "about": run.about},
            dir=str(run.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
            ),
        )
        return identity

    def _chosen_mode(self, wandb: Any) -> Mode:
        """Return ``self.mode``, or what stands for ``auto``; one line says so without a login."""
        wanted = os.environ.get("WANDB_MODE") if self.mode == "auto" else self.mode
        if wanted == "disabled":
            return "disabled"
        if wanted == "offline":
            return "offline"
        if wandb.login(prompt=False, verify=False):
            return "online"
        print(
            "tracker wandb: not logged in (`wandb login`, or WANDB_API_KEY); the run is kept"
            " offline, for `wandb sync`",
            file=sys.stderr,
        )
        return "offline"

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log(dict(figures), step=step)

    def add_alarm(self, step: int, text: str) -> None:
        """Add it to the history as `alarm`, and online as an alert, which may be sent to you."""
        self._run.log({"alarm": printable(text)}, step=step)
        if not self._run.settings._offline:
            self._run.alert(title="collapse alarm", text=printable(text))

    def add_sounds(
        self, step: int, sounds: Sequence[NDArray[np.float32]], names: Sequence[str], rate: int
    ) -> None:
        """Add them as `crops`, with their names as captions."""
        import wandb

        crops = []
        for sound, name in zip(sounds, names, strict=True):
            crops.append(wandb.Audio(sound, sample_rate=rate, caption=printable(name)))
        self._run.log({"crops": crops}, step=step)

    def add_embeddings(
        self, step: int, embeddings: NDArray[np.float32], names: Sequence[str]
    ) -> None:
        """Add a table `embeddings` of names and numbers; its page has a projector."""
        import wandb

        columns: list[str | int] = ["utterance"]
        columns += [f"d{number}" for number in range(embeddings.shape[1])]
        rows = []
        for name, row in zip(names, embeddings.tolist(), strict=True):
            rows.append([printable(name), *row])
        self._run.log({"embeddings": wandb.Table(columns=columns, data=rows)}, step=step)

    def close(self, finished: bool) -> None:
        """Write or send the rest; a run that stopped early is marked as failed."""
        self._run.finish(exit_code=0 if finished else 1)


PART = WeightsAndBiases
