"""What a run consists of: data, model, method, optimiser, and the state to resume from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from speechssl import config, distributed, parts
from speechssl.augment.augment import Augment, SpecAugment
from speechssl.data.dataset import Batch, CropBatches, CropSpec, Loader, make_loader, parse_plan
from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Utterance, read_manifest
from speechssl.data.positives import Positives
from speechssl.diagnostics.monitor import Monitor
from speechssl.errors import UserError
from speechssl.interfaces import Method, Progress, Views
from speechssl.model import LAST, Model, load_state
from speechssl.train.optimizers import OptimizerSettings, build_optimizer


def read_utterances(settings: Mapping[str, Any]) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Training utterances of all ``data.train`` directories, and those left out with the reason.

    No label file is opened. With ``data.pseudo_labels``, utterances without one are left out.
    """
    utterances: list[Utterance] = []
    skipped: list[tuple[str, str]] = []
    least = settings["data"]["min_seconds"]
    classes = settings["data"]["pseudo_labels"]
    known = None if classes is None else read_mapping(classes)
    for directory in settings["data"]["train"]:
        manifest = read_manifest(directory, labels=(), on_bad="skip")
        skipped += manifest.skipped
        for utterance in manifest.utterances:
            if utterance.seconds < least:
                skipped.append(
                    (
                        utterance.id,
                        f"{utterance.seconds:.2f} s, shorter than data.min_seconds={least}",
                    )
                )
            elif known is not None and utterance.id not in known:
                skipped.append((utterance.id, "no pseudo-label"))
            else:
                utterances.append(utterance)
    if known is not None or settings["data"]["positives"]:
        _refuse_shared_ids(utterances)
    if known is not None and not utterances:
        raise UserError(
            f"data.pseudo_labels: {classes} names none of the {len(skipped)} utterances; is it of"
            " these data?"
        )
    if not utterances:
        where = ", ".join(settings["data"]["train"])
        raise UserError(
            f"data.train: no usable utterance in {where} ({len(skipped)} left out); check the list"
        )
    return utterances, skipped


def _refuse_shared_ids(utterances: list[Utterance]) -> None:
    """Classes go by id, so no two utterances may share one."""
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise UserError(
                f"data.train: two directories have an utterance {utterance.id!r}, and classes go by"
                " id; prepare one of them under another folder"
            )
        seen.add(utterance.id)


def _pseudo_labels(data: Mapping[str, Any], utterances: list[Utterance]) -> torch.Tensor | None:
    """(N,) classes of the utterances, numbered from 0 in the order of their names."""
    if data["pseudo_labels"] is None:
        return None
    known = read_mapping(data["pseudo_labels"])
    _, numbers = np.unique([known[utterance.id] for utterance in utterances], return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64))


def _positives(data: Mapping[str, Any], utterances: list[Utterance]) -> Positives | None:
    file = data["positives"]
    return None if file is None else Positives(file, utterances, data["positives_prob"])


class Run:
    """Everything a run needs, built from its configuration alike in every process.

    Args:
        settings: resolved configuration.
        world: this process among the others.
        utterances: what ``read_utterances`` found.

    Raises:
        UserError: what was asked for does not fit together.
    """

    def __init__(
        self, settings: Mapping[str, Any], world: distributed.World, utterances: list[Utterance]
    ) -> None:
        self.settings, self.world = settings, world
        self.train: Mapping[str, Any] = settings["train"]
        torch.manual_seed(settings["seed"])
        self.model = Model(settings["features"], settings["encoder"])
        if self.train["init"]:
            start = Model.load(self.train["init"])
            if start.settings["features"] != self.model.settings["features"]:
                raise UserError(
                    f"train.init: the model in {self.train['init']} has other features than section"
                    " features says; give that section as in its config.yaml"
                )
            try:
                self.model.encoder.load_state_dict(start.encoder.state_dict())
            except RuntimeError as error:
                raise UserError(
                    f"train.init: the encoder in {self.train['init']} is not the one configured"
                    f" ({str(error).splitlines()[-1].strip()}); give section encoder as in its"
                    " config.yaml"
                ) from error
        self.method: Method = parts.build("methods", settings["method"], self.model.encoder)
        if settings["data"]["pseudo_labels"] and not self.method.NEEDS_LABELS:
            raise UserError(
                f"data.pseudo_labels: method {settings['method']['name']} learns no labels; leave"
                " it out, or set method.name=aam_softmax"
            )
        self.method.prepare(len(utterances), _pseudo_labels(settings["data"], utterances))
        if self.train["init_method"]:
            self._take_method(Path(self.train["init_method"]))
        if self.train["batch_size"] < self.method.min_batch:
            raise UserError(
                f"train.batch_size: {self.train['batch_size']} is fewer than the"
                f" {self.method.min_batch} that method {settings['method']['name']} needs; raise it"
            )
        if self.train["sync_batchnorm"]:
            distributed.synchronise_batchnorm(self.method, world)
        self.method.to(world.device).train()
        self.front_end = self.model.front_end.to(world.device)
        self.specaugment = SpecAugment(**settings["specaugment"])
        self.optimizer_settings = OptimizerSettings(**settings["optimizer"])
        self.optimizer = build_optimizer(self.method, self.optimizer_settings)

        patience = settings["monitor"]["patience"]
        self.monitor = Monitor(self.model.dim, patience, self.method.teacher_prototypes)

        self.plan: list[CropSpec] = parse_plan(config.thaw(settings["data"]["crops"]))
        self.batch = self.train["batch_size"] * world.size * self.train["accumulate"]
        self.per_epoch = max(1, len(utterances) // self.batch)
        self.steps: int = self.train["steps"] or max(
            1, round(self.train["epochs"] * self.per_epoch)
        )
        self.step = 0
        self.utterances = utterances
        self.augment = Augment(self.model.sample_rate, **config.thaw(settings["augment"]))
        self.batches = CropBatches(
            utterances,
            self.plan,
            rate=self.model.sample_rate,
            batch_size=self.train["batch_size"],
            seed=settings["seed"],
            rank=world.rank,
            world=world.size,
            overlap=settings["data"]["overlap"],
            disjoint=settings["data"]["disjoint"],
            weight_by_duration=settings["data"]["weight_by_duration"],
            shards_at_once=settings["data"]["shards_at_once"],
            positives=_positives(settings["data"], utterances),
            augment=self.augment,
            augment_here=world.device.type == "cpu",
        )
        if world.device.type != "cpu":
            self.augment.to(world.device)

    def _take_method(self, folder: Path) -> None:
        """Load the method of another run's last checkpoint."""
        file = folder / LAST
        if not file.is_file():
            raise UserError(
                f"train.init_method: {file} is not there; give a run folder of `speechssl train`"
            )
        state, mine = load_state(file)["method"], self.method.state_dict()
        if (
            "labels" in state
            and "labels" in mine
            and not torch.equal(state["labels"], mine["labels"])
        ):
            raise UserError(
                f"train.init_method: the run in {folder} learnt other classes than"
                " data.pseudo_labels has; give the same file and data"
            )
        state |= {name: mine[name] for name in self.method.OWN_STATE}
        try:
            self.method.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"train.init_method: the method in {folder} is not the one configured"
                f" ({str(error).splitlines()[-1].strip()}); same method, encoder, data and"
                " pseudo-labels"
            ) from error

    def loader(self, start: int, stop: int, workers: int | None = None) -> Loader:
        """Batches of steps ``start`` to ``stop`` (forward passes, not optimiser steps)."""
        data = self.settings["data"]
        count = data["workers"] if workers is None else workers
        return make_loader(
            self.batches, start, stop, count, data["timeout"], ranks=distributed.processes_here()
        )

    def progress(self) -> Progress:
        """Where the run stands."""
        return Progress(self.step, self.steps, self.per_epoch)

    def parallel(self) -> nn.Module:
        """The method, wrapped for many processes where there are many."""
        if self.train["compile"]:
            self.method.compile(dynamic=False)
        if self.world.size == 1:
            return self.method
        ids = [self.world.device.index] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(self.method, device_ids=ids, broadcast_buffers=False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 for the encoder's products where the configuration says so."""
        if self.train["precision"] == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16)

    @torch.no_grad()
    def views(self, batch: Batch, index: int) -> list[Views]:
        """Features of a batch, group by group, on the device; ``index`` seeds SpecAugment."""
        views = []
        groups = batch.on(self.world.device, self.augment)
        for i, (waves, spec) in enumerate(zip(groups, self.plan, strict=True)):
            features, _ = self.front_end(waves.flatten(0, 1))
            if spec.augment != "none":
                seed = np.random.SeedSequence([self.settings["seed"], index, i])
                generator = torch.Generator(features.device).manual_seed(
                    int(seed.generate_state(1)[0])
                )
                rows, total = self._rows(*waves.shape[:2])
                features = self.specaugment(features, generator, rows, total)
            features = features.view(*waves.shape[:2], *features.shape[1:])
            views.append(Views(features, spec.to, batch.indices.to(self.world.device)))
        return views

    def _rows(self, views: int, batch: int) -> tuple[torch.Tensor, int]:
        """Which of all processes' crops (views x joined batch) this process holds, and how many
        there are.
        """
        joined = batch * self.world.size
        mine = self.world.rank * batch + torch.arange(batch)
        return (torch.arange(views)[:, None] * joined + mine).flatten(), views * joined

    def state(self) -> dict[str, Any]:
        """All that an unbroken continuation needs; batches are a function of seed and step."""
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "monitor": self.monitor.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self.step = state["step"]
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.monitor.restore(state["monitor"], self.world.device)
