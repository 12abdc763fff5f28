"""MLflow: a server, or a file of your own (RUN/mlflow/mlflow.db).

Look at a file with `mlflow ui --backend-store-uri sqlite:///RUN/mlflow/mlflow.db` (that needs
`pip install mlflow`; tracking itself needs mlflow-skinny). One file for many runs: set `uri`.
"""

from __future__ import annotations

import io
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.files import write_skipped
from speechssl.interfaces import TrackedRun, Tracker
from speechssl.text import printable

_SQLITE = "sqlite:///"

_LONGEST = 500
"""Characters of a parameter that every store takes."""

_AT_ONCE = 100
"""Parameters that every store takes in one request."""


class MLflow(Tracker):
    """Logs to an MLflow run: parameters, metrics, alarms, sounds and embeddings as artefacts.

    Args:
        experiment: where the run is shown.
        uri: a server (``https://...``) or a database (``sqlite:///FILE``); null: as
            MLFLOW_TRACKING_URI says, else a file in the run folder.
        sounds: crops of the first batch to listen to.
        embeddings: training utterances whose embeddings are kept; 0: none.
        embeddings_every: optimiser steps between two sets of them; 0: one, at the end.
    """

    def __init__(
        self,
        *,
        experiment: str = "speechssl",
        uri: str | None = None,
        sounds: int = 4,
        embeddings: int = 300,
        embeddings_every: int = 0,
    ) -> None:
        missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if find_spec(name) is None]
        if missing:
            raise UserError(
                f"tracker mlflow: {missing[0]} is not installed; run: pip install 'speechssl[track]',"
                " or leave it out of train.trackers"
            )
        self.experiment = experiment
        self.uri = uri
        self.sounds = sounds
        self.embeddings = embeddings
        self.embeddings_every = embeddings_every
        self._client: Any = None
        self._id = ""

    def open(self, run: TrackedRun) -> str:
        """Begin a run, or set the one that was begun to running again."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its makers
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # of 7, which take minutes
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # a new database would be twenty lines
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or _own_file(run.folder)
        self._client = MlflowClient(tracking_uri=uri)
        if run.id is not None:
            self._client.update_run(run.id, status="RUNNING")
            self._id = run.id
            return run.id
        experiment = self._experiment_id(uri)
        created = self._client.create_run(experiment, run_name=printable(run.name))
        self._id = created.info.run_id
        self._add_parameters({**run.settings, "about": run.about})
        return self._id

    def _experiment_id(self, uri: str) -> str:
        """Return the id of the experiment; the artefacts of a database file lie beside it."""
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        artefacts = None
        if uri.startswith(_SQLITE):
            file = Path(uri.removeprefix(_SQLITE)).resolve()
            artefacts = (file.parent / "artefacts").as_uri()
        return str(self._client.create_experiment(self.experiment, artifact_location=artefacts))

    def _add_parameters(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = []
        for key, value in _flat(settings):
            shown = printable(str(value))[:_LONGEST]
            parameters.append(Param(_key(key), shown))
        for start in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(self._id, params=parameters[start : start + _AT_ONCE])

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to each metric."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_key(name), value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def add_alarm(self, step: int, text: str) -> None:
        """Add an artefact `alarms/step-N.txt`, and the latest one as a tag."""
        self._client.log_text(self._id, printable(text) + "\n", f"alarms/step-{step:08d}.txt")
        self._client.set_tag(self._id, "alarm", printable(text)[:_LONGEST])

    def add_sounds(
        self, step: int, sounds: Sequence[NDArray[np.float32]], names: Sequence[str], rate: int
    ) -> None:
        """Add artefacts `crops/N.wav`, and their names in `crops/names.tsv`."""
        with tempfile.TemporaryDirectory() as folder:
            for number, sound in enumerate(sounds, 1):
                soundfile.write(Path(folder, f"{number}.wav"), sound, rate)
            numbered = [(str(number), name) for number, name in enumerate(names, 1)]
            write_skipped(Path(folder, "names.tsv"), numbered)
            self._client.log_artifacts(self._id, folder, "crops")

    def add_embeddings(
        self, step: int, embeddings: NDArray[np.float32], names: Sequence[str]
    ) -> None:
        """Add an artefact `embeddings/step-N.npz` with `ids` and `embeddings`."""
        content = io.BytesIO()
        np.savez(content, ids=np.array(names), embeddings=embeddings)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"step-{step:08d}.npz")
            path.write_bytes(content.getvalue())
            self._client.log_artifact(self._id, str(path), "embeddings")

    def close(self, finished: bool) -> None:
        """Set the status of the run: finished, or killed."""
        self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")


def _own_file(folder: Path) -> str:
    """Return the address of the database in a run folder, whose folder is made."""
    path = (folder / "mlflow" / "mlflow.db").resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"{_SQLITE}{path}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of every setting (`train.steps`, 100)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _key(name: str) -> str:
    """Return a name as MLflow takes it: letters, digits, and `_-. /`."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)[:250] or "_"


PART = MLflow
