"""A run in memory: model, method, optimiser, batches, and the state to resume from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from speechssl import distributed, parts
from speechssl.augment.augment import Augment
from speechssl.augment.specaugment import SpecAugment
from speechssl.config import thaw
from speechssl.data.crops import parse_plan
from speechssl.data.loader import Loader, ReadErrors, make_loader
from speechssl.data.manifest import Utterance
from speechssl.diagnostics.monitor import Monitor
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, Progress
from speechssl.model import Model
from speechssl.nn.batch_norm import hold_running_statistics
from speechssl.train import initial
from speechssl.train.data import crop_batches, groups_to_mask, read_pseudo_labels
from speechssl.train.local_blocks import LocalBlocks
from speechssl.train.logs import Meter
from speechssl.train.optimizers import build_optimizer
from speechssl.train.settings import TrainingConfig, run_length
from speechssl.train.view_maker import ViewMaker


class Run:
    """Everything that the training loop needs, built alike in every process.

    Args:
        config: all settings.
        world: this process among the others.
        utterances: what ``train.data.read_utterances`` found.

    Attributes:
        model: features and the encoder that users get.
        method: the method, on the device and in training mode.
        step: optimiser steps that are done.
        steps: optimiser steps of the whole run.
        rate_step: step whose learning rate and weight decay all steps have; None: each
            has its own (federated rounds hold them).
        steps_per_epoch: optimiser steps in which every utterance is seen once.
        batch_size: utterances of an optimiser step, over devices and accumulated
            passes.
        batches: crops of each forward pass.
        meter: scalars since the last line of the log.
        read_errors: utterances that could not be read.
        views: turns such a batch into the views that the method is given.

    Raises:
        UserError: settings that do not fit together.
    """

    def __init__(
        self, config: TrainingConfig, world: distributed.World, utterances: Sequence[Utterance]
    ) -> None:
        self.config = config
        self.world = world
        self.utterances = utterances

        torch.manual_seed(config.seed)
        self.model = Model(config.features, config.encoder)
        if config.train.init:
            initial.load_encoder(self.model, config.train.init)
        self.method = build_method(config, self.model.encoder, utterances)
        if config.train.sync_batchnorm:
            distributed.synchronise_batchnorm(self.method, world)
        self.method.to(world.device).train()
        if config.train.batchnorm == "running":
            hold_running_statistics(self.method)
        front_end = self.model.front_end.to(world.device)
        self.optimizer = build_optimizer(self.method, config.optimizer)
        self.monitor = Monitor(
            self.model.dim,
            config.monitor.patience,
            self.method.teacher_prototypes,
            self.method.highest_teacher_temperature,
        )
        self.meter = Meter()
        self.read_errors = ReadErrors()

        train = config.train
        self.batch_size = train.batch_size * world.size * train.gradient_accumulation_steps
        self.steps_per_epoch = max(1, len(utterances) // self.batch_size)
        self.steps = run_length(train, self.steps_per_epoch)
        self.step = 0
        self.rate_step: int | None = None

        plan = parse_plan(thaw(config.data.crops))
        augment = Augment(self.model.sample_rate, **thaw(config.augment))
        self.batches = crop_batches(
            config,
            utterances,
            plan,
            augment,
            self.model.sample_rate,
            world,
            passes=self.steps * train.gradient_accumulation_steps,
        )
        if world.device.type != "cpu":
            augment.to(world.device)
        specaugment = SpecAugment(**config.specaugment)
        self.views = ViewMaker(
            plan,
            augment,
            front_end,
            specaugment,
            config.seed,
            world,
            per_view=train.encode == "per_view",
            groups=groups_to_mask(config.data, self.batches.positives),
        )

    def loader(self, start: int, stop: int, workers: int | None = None) -> Loader:
        """Return a loader of batches.

        Args:
            start, stop: forward passes of the run (not optimiser steps), ``stop``
                excluded.
            workers: processes, in place of ``data.workers``.
        """
        data = self.config.data
        if workers is None:
            workers = data.workers
        ranks = distributed.processes_here()
        return make_loader(self.batches, start, stop, workers, data.timeout, ranks=ranks)

    def progress(self) -> Progress:
        """Return how far the run has come."""
        return Progress(self.step, self.steps, self.steps_per_epoch)

    def rate_fraction(self) -> float:
        """Return the share of the run that learning rate and weight decay are those of."""
        if self.rate_step is None:
            return self.progress().fraction
        return self.progress()._replace(step=self.rate_step).fraction

    def parallel(self) -> nn.Module:
        """Return the method, compiled if asked for, and wrapped if there are several processes."""
        if self.config.train.compile:
            self.method.compile(dynamic=False)
        if self.world.size == 1:
            return self.method
        devices = [self.world.device.index] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(self.method, device_ids=devices, broadcast_buffers=False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the encoder's products have the precision asked for."""
        if self.config.train.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16)

    def state(self) -> dict[str, Any]:
        """Return all that resuming needs; batches are a function of seed and step."""
        state = {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "monitor": self.monitor.state(),
            "meter": self.meter.state(),
            "read_errors": self.read_errors.state(),
        }
        if self.world.device.type == "cuda":  # dropout draws there
            state["rng_of_gpu"] = torch.cuda.get_rng_state(self.world.device)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state`` returned.

        Raises:
            Exception: it is damaged, or the state of another run.
        """
        if not isinstance(state["step"], int) or state["step"] < 0:
            raise ValueError(f"step {state['step']!r}")
        self.step = state["step"]
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        _refuse_other_shapes(self.optimizer)
        torch.set_rng_state(state["rng"])
        if self.world.device.type == "cuda" and "rng_of_gpu" in state:
            torch.cuda.set_rng_state(state["rng_of_gpu"], self.world.device)
        self.monitor.restore(state["monitor"], self.world.device)
        if "meter" in state:  # older versions did not save them
            self.meter.restore(state["meter"], self.world.device)
            self.read_errors.restore(state["read_errors"])


def _refuse_other_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if averages of an optimiser have not the shape of their parameters."""
    for parameter, averages in optimizer.state.items():
        for name, value in averages.items():
            has_shape = isinstance(value, torch.Tensor) and value.dim() > 0
            if has_shape and value.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}")


def construct_method(config: TrainingConfig, encoder: Encoder) -> Method:
    """Return the method around ``encoder``, of which nothing depends on the utterances yet."""
    if config.train.local_blocks:
        return LocalBlocks(encoder, config.method, config.train.local_blocks)
    method: Method = parts.build("methods", config.method, encoder)
    return method


def build_method(
    config: TrainingConfig, encoder: Encoder, utterances: Sequence[Utterance]
) -> Method:
    """Return the method around ``encoder``, prepared for the utterances.

    Raises:
        UserError: pseudo-labels that the method does not learn, too small a batch, or
            weights of ``train.init_method`` that do not fit.
    """
    name = config.method["name"]
    method = construct_method(config, encoder)
    if config.data.pseudo_labels and not method.NEEDS_LABELS:
        raise UserError(
            f"data.pseudo_labels: method {name} learns no labels; leave it out, or set"
            " method=aam_softmax"
        )
    method.prepare(len(utterances), read_pseudo_labels(config.data, utterances))
    if config.train.init_method:
        initial.load_method(method, config.train.init_method)
    if config.train.batch_size < method.min_batch:
        raise UserError(
            f"train.batch_size: {config.train.batch_size} is fewer than the {method.min_batch}"
            f" that method {name} needs; raise it"
        )
    if config.train.batch_size == 1 and config.train.batchnorm == "batch":
        raise UserError(
            "train.batch_size: a batch of one has no statistics for BatchNorm; raise it, or set"
            " train.batchnorm=running and train.init to a trained model"
        )
    return method
