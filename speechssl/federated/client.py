"""A client of federated training: a run of its own, of which only weights and centroids leave.

Its folder is a run folder (`files.RunFolder`) with the state after its last round: the weights of
that round, and what stays here (teacher, memories, optimiser, random numbers). A client that is
killed in a round begins that round again when it is asked again; one that is asked twice for a round
that it has finished gives the same answer.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from speechssl import distributed
from speechssl.data.kaldi import read_mapping
from speechssl.federated import centroids, wire
from speechssl.federated.averaging import State, divergence
from speechssl.federated.clients import Holdings
from speechssl.federated.messages import Answer, Task
from speechssl.federated.saved import LastRound, read_last_round
from speechssl.federated.settings import FederatedSettings, for_a_client
from speechssl.federated.shared import (
    Blank,
    load_shared,
    reset_targets,
    shared_state,
    trained_encoder,
)
from speechssl.federated.strategy import Own
from speechssl.federated.training import save_round, train_steps
from speechssl.files import RunFolder, atomic_write
from speechssl.model import Model
from speechssl.train.about import describe
from speechssl.train.logs import cut_back
from speechssl.train.machine import set_kernel, set_threads
from speechssl.train.optimizers import build_optimizer
from speechssl.train.resuming import restore_from, same_data, same_settings
from speechssl.train.run import Run
from speechssl.train.settings import TrainingConfig, with_precision


class Client:
    """Answers the server's tasks.

    Args:
        held: what this client has.
        settings: of the federation.
        folder: its run folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: the folder holds a run with other settings or data.
    """

    def __init__(
        self, held: Holdings, settings: FederatedSettings, folder: Path, device: str = "auto"
    ) -> None:
        self.name = held.name
        self.settings = settings
        self.folder = RunFolder(folder)
        self.world = distributed.start(device)
        self.utterances = held.utterances
        self.skipped = held.skipped
        config, self.steps = for_a_client(held.config, settings, len(held.utterances))
        has_a_round = self.folder.last.exists()
        if has_a_round:
            config = same_settings(self.folder, config)
            same_data(self.folder, config, self.utterances)
        self.config = with_precision(config, str(self.world.device))
        set_threads(self.config.train.threads, self.world)
        set_kernel(self.config.train, self.world)
        self.strategy = settings.build_strategy()
        with_targets = settings.target == "averaged"
        blank = Blank(self.config, with_targets=with_targets)
        self.shared = blank.names
        self.expected = blank.expected()
        if has_a_round:
            self._kept()  # damage is said now, before a round
        else:
            describe(self.folder, self.config, self.utterances, self.skipped)

    def answer(self, task: Task) -> Answer:
        """Do what the server asks.

        Raises:
            UserError: what the server has sent does not fit, or a loss is not finite.
        """
        if not 1 <= task.round <= self.settings.rounds or task.number < 1:
            raise wire.Refused(
                f"the server asks for round {task.round} of {self.settings.rounds}; use the same"
                " configuration everywhere"
            )
        received = wire.unpack(task.state, self.expected)
        if task.kind == "cluster":
            return self._answer_clusters(task, received)
        kept = self._kept()
        if kept is not None and kept.answered == (task.number, wire.digest(task.state)):
            state = {name: kept.run["method"][name] for name in self.shared}
            return self._answer(task, wire.pack(state), kept.figures)
        return self._train(task, received, kept)

    def _answer(self, task: Task, payload: bytes, figures: dict[str, float]) -> Answer:
        return Answer(self.name, task.number, len(self.utterances), payload, figures)

    def _kept(self) -> LastRound | None:
        """Return what was saved after the last round, or None."""
        if not self.folder.last.exists():
            return None
        return read_last_round(self.folder.last, self.expected)

    def _train(self, task: Task, received: State, kept: LastRound | None) -> Answer:
        """Train for a round, save, and return the weights."""
        started_at = time.monotonic()
        if task.centroids:
            self._label(task, received)
        run = self._run(kept)
        cut_back(self.folder.log, run.step)  # what a round that was killed has written
        if self.settings.optimizer == "new":
            run.optimizer = build_optimizer(run.method, run.config.optimizer)
        before = self._begin(run, task, received, kept)
        figures = train_steps(run, self.steps, self.folder)
        after = shared_state(run.method, self.shared)
        moved = divergence(before, after)
        figures |= {"divergence": moved, "seconds": time.monotonic() - started_at}
        first = moved if kept is None else kept.first_divergence
        memory = {
            "answered": [task.number, wire.digest(task.state)],
            "divergence": moved,
            "first_divergence": first,
            "figures": figures,
        }
        save_round(run, self.folder, memory, task.round)
        return self._answer(task, wire.pack(after), figures)

    def _run(self, kept: LastRound | None) -> Run:
        """Return the run as it was after the last round; what depends on labels is new."""
        config = self.config
        utterances = self.utterances
        if self._labels.exists():
            config = self._with_labels()
            labelled = _ids_in(self._labels)
            utterances = [u for u in utterances if u.id in labelled]
        run = Run(config, self.world, utterances)
        if kept is None:
            return run
        fresh = run.method.state_dict()
        for name in run.method.OWN_STATE:
            kept.run["method"][name] = fresh[name]
        restore_from(run, kept.run, self.folder.last)
        return run

    def _begin(self, run: Run, task: Task, received: State, kept: LastRound | None) -> State:
        """Load what the round starts from into a run, and return it."""
        own = None
        if kept is not None:
            state = shared_state(run.method, self.shared)
            own = Own(state, kept.divergence, kept.first_divergence)
        is_new = kept is None and not _equal(shared_state(run.method, self.shared), received)
        load_shared(run.method, received)
        if is_new:  # whoever comes later begins with a teacher that is a copy, as the others did
            reset_targets(run.method)
        run.method.start_round()
        start = self.strategy.begin(received, own)
        load_shared(run.method, start)
        run.step = (task.round - 1) * self.steps
        if self.settings.rate == "round":
            run.rate_step = run.step + self.steps // 2
        return start

    def _answer_clusters(self, task: Task, received: State) -> Answer:
        """Embed the utterances with the shared weights, and return their centroids."""
        started_at = time.monotonic()
        _, vectors = self._embedded(received)
        rows = centroids.cluster(vectors, self.settings.clusters, self.config.seed)
        figures = {"seconds": time.monotonic() - started_at}
        return self._answer(task, wire.pack({"centroids": rows}), figures)

    def _label(self, task: Task, received: State) -> None:
        """Write the nearest of the server's centroids of each utterance."""
        dim = Model(self.config.features, self.config.encoder).dim
        rows = wire.unpack_rows(task.centroids, self.settings.clusters, dim)
        path = self._labels
        marker = path.with_name("centroids.txt")
        is_marked = path.exists() and marker.exists()
        if is_marked and marker.read_text() == wire.digest(task.centroids):
            return
        ids, vectors = self._embedded(received)
        centroids.write_labels(path, ids, vectors, rows)
        with atomic_write(marker) as temporary:
            temporary.write_text(wire.digest(task.centroids))

    def _embedded(self, received: State) -> tuple[list[str], torch.Tensor]:
        """Return ids and unit vectors (N, D) of the utterances, by the shared weights."""
        blank = Blank(self.config, with_targets=self.settings.target == "averaged")
        load_shared(blank.method, received)
        blank.model.encoder.load_state_dict(trained_encoder(blank.method).state_dict())
        return centroids.embed(blank.model, self.utterances, self.world.device)

    @property
    def _labels(self) -> Path:
        return self.folder.path / "clusters" / "utt2cluster"

    def _with_labels(self) -> TrainingConfig:
        """Return the configuration with this client's labels."""
        data = replace(self.config.data, pseudo_labels=str(self._labels))
        return replace(self.config, data=data)


def _ids_in(path: Path) -> set[str]:
    """Return the utterances that a table names."""
    return set(read_mapping(path))


def _equal(one: State, other: State) -> bool:
    """Return whether two states have the same bits."""
    return all(torch.equal(value, other[name]) for name, value in one.items())
