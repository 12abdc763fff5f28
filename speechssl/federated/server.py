"""The server of federated training: what to ask, and what becomes of the answers.

It has no audio. Its folder holds `server.pt` (the state to resume from, written after every task),
`log.jsonl` (a line a round), `config.yaml`, and in the end `model/`, the encoder of the shared
weights, beside `untrained/`. How tasks and answers travel is not known here (`local.py`, `flower_*.py`).
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import speechssl
from speechssl import config as configuration
from speechssl import foreign_yaml
from speechssl.errors import UserError
from speechssl.federated import centroids, saved, wire
from speechssl.federated.averaging import State, shares, weighted_mean
from speechssl.federated.messages import LONGEST_NAME, Answer, Task
from speechssl.federated.settings import FederatedSettings
from speechssl.federated.shared import Blank, load_shared, trained_encoder
from speechssl.files import ModelFolder, RunFolder, atomic_write
from speechssl.model import Model
from speechssl.text import printable
from speechssl.train.about import commit, labels_used
from speechssl.train.logs import cut_back
from speechssl.train.settings import TrainingConfig

MOST_UTTERANCES = 1 << 40
"""A client that claims to have more is refused."""

MOST_FAILED_TASKS = 10
"""In a row; then the run ends with an error."""


class Server:
    """The shared weights, and how far the run has come.

    Args:
        config: of training.
        settings: of the federation.
        out: its folder.
        resume: continue from the state in it.

    Attributes:
        state: the shared weights.
        rounds_done: rounds of training that are averaged.

    Raises:
        UserError: the folder holds a run and `resume` is not given, or it holds another run.
    """

    def __init__(
        self, config: TrainingConfig, settings: FederatedSettings, out: Path, *, resume: bool
    ) -> None:
        self.config = config
        self.settings = settings
        self.folder = RunFolder(out)
        self.blank = Blank(config, with_targets=settings.target == "averaged")
        self.state = self.blank.state()
        self.expected = self.blank.expected()
        self.rounds_done = 0
        self.tasks_done = 0
        self.failed_in_a_row = 0
        self.last_failure = ""
        self.centroids = b""
        self.clustered_before = 0
        if self._saved.exists():
            if not resume:
                raise UserError(
                    f"federate: {out} holds a run already; give --resume to continue it, or"
                    " another --out"
                )
            self._same_configuration()
            self._restore()
        else:
            if settings.init:
                self._start_from(settings.init)
            self._describe()
            self._save()

    @property
    def _saved(self) -> Path:
        return self.folder.path / "server.pt"

    def next_task(self) -> Task | None:
        """Return what to ask of every client now; None: the run is finished.

        Raises:
            UserError: task after task had too few answers.
        """
        if self.rounds_done >= self.settings.rounds:
            return None
        if self.failed_in_a_row >= MOST_FAILED_TASKS:
            raise UserError(
                f"federate: {MOST_FAILED_TASKS} times in a row fewer than"
                f" {self.settings.min_clients} clients gave an answer that fits; all that was wrong is"
                f" in {self.folder.log}, the last: {self.last_failure or 'nobody answered'}"
            )
        round = self.rounds_done + 1
        number = self.tasks_done + 1
        data = wire.pack(self.state)
        if self.settings.clusters_before(round) and self.clustered_before < round:
            return Task(number, "cluster", round, data)
        return Task(number, "train", round, data, self.centroids)

    def tasks_left(self) -> int:
        """Return how many tasks are left if none fails."""
        left = range(self.rounds_done + 1, self.settings.rounds + 1)
        clusterings = sum(self.settings.clusters_before(round) for round in left)
        if self.clustered_before > self.rounds_done:
            clusterings -= 1
        return len(left) + clusterings

    def take(
        self, task: Task, answers: Sequence[Answer], failures: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Average the answers to a task; those that do not fit are left out and listed.

        The result does not depend on the order of the answers.

        Args:
            task: that was asked.
            answers: of the clients.
            failures: (client, reason) of those that gave none.
        """
        failed = list(failures)
        fitting: dict[str, Answer] = {}
        contents: dict[str, Any] = {}
        twice = [name for name, n in Counter(a.client for a in answers).items() if n > 1]
        for answer in sorted(answers, key=lambda answer: answer.client):
            try:
                if answer.client in twice:
                    raise wire.Refused("two clients have this name; give them different ones")
                contents[answer.client] = self._content(task, answer)
                fitting[answer.client] = answer
            except UserError as error:
                failed.append((answer.client, str(error)))
        is_enough = len(fitting) >= self.settings.min_clients
        if is_enough and task.kind == "cluster":
            rows = torch.cat([contents[name] for name in fitting])
            found = centroids.cluster(rows, self.settings.clusters, self.config.seed)
            self.centroids = wire.pack({"centroids": found})
            self.clustered_before = task.round
        elif is_enough:
            self.state = weighted_mean(
                [contents[name] for name in fitting], self._weights(list(fitting.values()))
            )
            self.rounds_done = task.round
        self.tasks_done = task.number
        self.failed_in_a_row = 0 if is_enough else self.failed_in_a_row + 1
        for name, why in failed:
            self.last_failure = printable(f"{name[:40]}: {why}")[:200]
        self._log(task, fitting, failed, is_enough)
        self._save()

    def _content(self, task: Task, answer: Answer) -> State | torch.Tensor:
        """Return the weights or centroids of an answer.

        Raises:
            Refused: the answer does not fit the task.
        """
        count = answer.utterances
        if not answer.client or len(answer.client) > LONGEST_NAME:
            raise wire.Refused(f"a name of {len(answer.client)} letters")
        if answer.number != task.number:
            raise wire.Refused(f"an answer to task {answer.number}; {task.number} was asked")
        if not isinstance(count, int) or not 0 < count <= MOST_UTTERANCES:
            raise wire.Refused(f"says that it has {count} utterances")
        if task.kind == "cluster":
            dim = self.blank.model.dim
            return wire.unpack_rows(answer.payload, self.settings.clusters, dim)
        return wire.unpack(answer.payload, self.expected)

    def _weights(self, answers: Sequence[Answer]) -> list[float]:
        """Return the weight of each answer; they sum to one."""
        if self.settings.weights == "equal":
            return shares([1] * len(answers))
        return shares([answer.utterances for answer in answers])

    def finish(self) -> None:
        """Write the model of the shared weights."""
        self._save_model(self.folder.model)

    def _save_model(self, target: ModelFolder) -> None:
        load_shared(self.blank.method, self.state)
        model = self.blank.model
        model.encoder.load_state_dict(trained_encoder(self.blank.method).state_dict())
        about = foreign_yaml.read(self.folder.about)
        model.about = about | {"round": self.rounds_done, "rounds": self.settings.rounds}
        model.save(target.path)

    def _log(
        self,
        task: Task,
        fitting: Mapping[str, Answer],
        failed: Sequence[tuple[str, str]],
        is_enough: bool,
    ) -> None:
        """Append a line to the log, and print one."""
        clients = {}
        for name, answer in fitting.items():
            clients[printable(name)] = {"utterances": answer.utterances, **_figures(answer)}
        entry: dict[str, Any] = {"task": task.number, "round": task.round, "kind": task.kind}
        losses = [figures["loss"] for figures in clients.values() if "loss" in figures]
        if losses:
            entry["loss"] = sum(losses) / len(losses)
        entry["averaged"] = is_enough
        entry["clients"] = clients
        entry["failed"] = {printable(name)[:LONGEST_NAME]: printable(why) for name, why in failed}
        with self.folder.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        text = f"round {task.round}/{self.settings.rounds}  {task.kind}  {len(fitting)} clients"
        if losses:
            text += f"  loss {entry['loss']:.4g}"
        print(text, file=sys.stderr)
        for name, why in entry["failed"].items():
            print(f"  without {name}: {why}", file=sys.stderr)

    def _describe(self) -> None:
        """Write configuration, what is known of the run, and the untrained model."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder.config) as temporary:
            configuration.write(self._written(), temporary)
        about = {
            "method": self.config.method["name"],
            "speechssl": speechssl.__version__,
            "torch": str(torch.__version__),
            "commit": commit(),
            "seed": self.config.seed,
            "labels_used": labels_used(self.config),
            "federated": "weights of clients were averaged; the server has seen no audio",
        }
        with atomic_write(self.folder.about) as temporary:
            configuration.write(about, temporary)
        self._save_model(self.folder.untrained)

    def _written(self) -> dict[str, Any]:
        training: dict[str, Any] = configuration.thaw(self.config)
        return training | {"federated": configuration.thaw(self.settings)}

    def _same_configuration(self) -> None:
        """Raise UserError if the run was started with other settings."""
        before = foreign_yaml.read(self.folder.config)
        now = json.loads(json.dumps(self._written()))
        for section in now:
            if now[section] != before.get(section):
                raise UserError(
                    f"federate: section {section} is not what the run in {self.folder.path} was"
                    " started with; resume with the same configuration, or give another --out"
                )

    def _start_from(self, folder: str) -> None:
        """Take over the shared weights of another run, as far as they fit, and its encoder.

        Raises:
            UserError: there is no such run, or its encoder is another one.
        """
        path = Path(folder) / "server.pt"
        if not path.is_file():
            raise UserError(
                f"federated.init: no server.pt in {folder}; give a finished run's folder"
            )
        before = saved.read_weights(path)
        trained = Model.load(RunFolder(folder).model.path).encoder.state_dict()
        encoder = trained_encoder(self.blank.method)
        try:
            encoder.load_state_dict(trained)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()[:200]
            raise UserError(
                f"federated.init: the encoder of {folder} is not the one configured ({reason})"
            ) from error
        state = self.blank.state()
        for name, value in before.items():
            wanted = state.get(name)
            if wanted is not None and (value.shape, value.dtype) == (wanted.shape, wanted.dtype):
                state[name] = value
        load_shared(self.blank.method, state)
        encoder.load_state_dict(trained)
        try:
            self.state = wire.fitting(self.blank.state(), self.expected)
        except wire.Refused as error:
            raise UserError(f"federated.init: {path}: {error}") from error

    def _save(self) -> None:
        """Write the state to resume from."""
        saved.ServerState(
            state=self.state,
            rounds_done=self.rounds_done,
            tasks_done=self.tasks_done,
            clustered_before=self.clustered_before,
            centroids=self.centroids,
        ).write(self._saved)

    def _restore(self) -> None:
        """Continue from what `_save` wrote; a task that it does not know of is not in the log.

        Raises:
            UserError: it is damaged, or of another configuration.
        """
        held = saved.read_server(self._saved, self.expected)
        if held.rounds_done > self.settings.rounds:
            raise UserError(f"{self._saved}: has more rounds than there are; give another --out")
        if held.centroids:
            try:
                wire.unpack_rows(held.centroids, self.settings.clusters, self.blank.model.dim)
            except wire.Refused as error:
                raise UserError(f"{self._saved}: its centroids: {error}") from error
        self.state = held.state
        self.rounds_done = held.rounds_done
        self.tasks_done = held.tasks_done
        self.clustered_before = held.clustered_before
        self.centroids = held.centroids
        cut_back(self.folder.log, self.tasks_done, "task")


def _figures(answer: Answer) -> dict[str, float]:
    """Return the figures of an answer that are finite numbers under short names."""
    kept = {}
    for name, value in list(answer.figures.items())[:50]:
        is_named = isinstance(name, str) and len(name) <= 40
        if is_named and isinstance(value, int | float) and math.isfinite(value):
            kept[printable(name)] = round(float(value), 6)
    return kept
