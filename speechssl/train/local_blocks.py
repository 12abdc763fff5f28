"""Local training: each unit of an encoder's stages has a loss of its own (LoCo, Greedy InfoMax).

Xiong, Ren and Urtasun 2020 (NeurIPS), methods/README.md 14.3. A unit is a run of stages,
such as (1, 2), (2, 3), (3, 4). It ends in its own decoder, pooling and the method's
heads, with the method's loss, and its gradient is cut at its input. Where units
overlap, as in LoCo, a shared stage gets the sum of two gradients, and what is above it
is heard below it; without overlap it is Greedy InfoMax (Lowe et al. 2019). The loss of
the run is the sum over the units.

A shared stage runs again for the next unit, from the same detached input; BatchNorm's
running statistics are updated in the first run only. All units are differentiated
together: this changes what is learnt, and saves no memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechssl import parts
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, Output, ParameterRule, Progress, Stage, Views
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import statistics

Blocks = Sequence[Sequence[int]]


class Unit(Encoder):
    """Some stages of an encoder as an encoder of its own.

    The top unit ends as the whole encoder does. Any other pools the mean and the
    deviation of each channel that its last stage has made. Its parameters belong to the
    whole encoder, not to this module.

    Args:
        stages: that it consists of.
        embedding_dim: D of the whole encoder for the top unit, else None.
        passes_on: after how many of its stages the next unit begins.
    """

    def __init__(
        self, stages: Sequence[Stage], embedding_dim: int | None, passes_on: int | None
    ) -> None:
        super().__init__()
        self.stages_of_unit = list(stages)
        self.is_top = embedding_dim is not None
        self.embedding_dim = embedding_dim or 2 * stages[-1].channels
        self.passes_on = passes_on
        self.passed_on: list[Tensor] = []

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of what the stage before gave (B, ...); all frames count."""
        x = features
        for number, stage in enumerate(self.stages_of_unit, 1):
            x = stage.run(x)
            if number == self.passes_on:
                self.passed_on.append(x.detach())
        if self.is_top:
            return x
        own = x[..., -self.stages_of_unit[-1].channels :]
        rows = own.flatten(1, -2)  # maps (B, F, M, C) are pooled over frequencies, too
        return statistics(rows, Frames.of(rows, None))


class LocalBlocks(Method):
    """The method in every unit of an encoder.

    Args:
        encoder: the encoder to train; what users get.
        section: the method's section of the configuration.
        blocks: the stages of each unit, numbered from 1.

    Raises:
        UserError: the encoder has no stages, the method has a teacher or learns labels,
            or the units leave a stage out.
    """

    def __init__(self, encoder: Encoder, section: Mapping[str, Any], blocks: Blocks) -> None:
        super().__init__()
        stages = encoder.stages()
        _check_blocks(blocks, len(stages))
        self.net = encoder
        self.units = nn.ModuleList()
        self.shared: list[list[str]] = []
        for number, block in enumerate(blocks):
            is_top = number == len(blocks) - 1
            passes_on = None if is_top else blocks[number + 1][0] - block[0]
            unit_stages = [stages[stage - 1] for stage in block]
            unit = Unit(unit_stages, encoder.embedding_dim if is_top else None, passes_on)
            method: Method = parts.build("methods", section, unit)
            _check_method(method, str(section["name"]))
            self.units.append(method)
            before = set(blocks[number - 1]) if number else set()
            again = [stages[stage - 1] for stage in block if stage in before]
            self.shared.append([name for stage in again for name in stage.modules])
        self.min_batch = max(method.min_batch for method in self._methods())

    def _methods(self) -> list[Method]:
        return [method for method in self.units if isinstance(method, Method)]

    @property
    def encoder(self) -> Encoder:
        """The whole encoder."""
        return self.net

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Let the method of each unit make its memories."""
        for method in self._methods():
            method.prepare(utterances, labels)

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the sum of the units' losses; embeddings and projections are the top unit's."""
        losses = []
        scalars: dict[str, Tensor] = {}
        inputs = list(views)
        for number, method in enumerate(self._methods()):
            unit = method.encoder
            assert isinstance(unit, Unit)
            unit.passed_on.clear()
            with self._held_statistics(self.shared[number]):
                output: Output = method(inputs, progress)
            losses.append(output.loss)
            scalars[f"unit_{number + 1}"] = output.loss.detach()
            inputs = _from_stage(inputs, unit.passed_on)
            unit.passed_on.clear()
        total = torch.stack(losses).sum()
        return output._replace(loss=total, scalars=output.scalars | scalars)

    @contextlib.contextmanager
    def _held_statistics(self, names: Sequence[str]) -> Iterator[None]:
        """Within this context the running statistics of some modules of the encoder stay."""
        norms = []
        for name in names:
            for module in self.net.get_submodule(name).modules():
                if isinstance(module, _BatchNorm):
                    norms.append(module)
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, before, strict=True):
                norm.momentum = momentum

    def parameter_rules(self) -> list[ParameterRule]:
        """Return the rules of the method in each unit."""
        return [rule for method in self._methods() for rule in method.parameter_rules()]

    def after_backward(self, progress: Progress) -> None:
        """Call the hook of the method in each unit."""
        for method in self._methods():
            method.after_backward(progress)

    def after_step(self, progress: Progress) -> None:
        """Call the hook of the method in each unit."""
        for method in self._methods():
            method.after_step(progress)


def _from_stage(views: Sequence[Views], outputs: Sequence[Tensor]) -> list[Views]:
    """Return views whose features are what a stage gave for `views`.

    Args:
        views: the groups that a method encoded, in this order.
        outputs: of each call of the stage: one for a group, or one for each of its views.
            None at all behind the top unit.
    """
    if not outputs:
        return []
    waiting = iter(outputs)
    made = []
    for group in views:
        count, batch = group.features.shape[:2]
        calls = [next(waiting) for _ in range(count if group.per_view else 1)]
        x = torch.cat(calls)
        made.append(group._replace(features=x.view(count, batch, *x.shape[1:])))
    return made


def _check_blocks(blocks: Blocks, stages: int) -> None:
    """Raise UserError unless the units cover all stages, each one from where the last ends on."""
    if not stages:
        raise UserError("train.local_blocks: this encoder has no stages; use ecapa or resnet")
    problem = ""
    end = 0
    start = 0
    for block in blocks:
        is_run = list(block) == list(range(block[0], block[0] + len(block))) if block else False
        if not is_run:
            problem = f"{list(block)} is not a run of stages such as [2, 3]"
        elif not start < block[0] <= end + 1 or block[-1] <= end:
            problem = f"{list(block)} leaves stages out, or does not go on from the unit before it"
        if problem:
            break
        start = block[0]
        end = block[-1]
    if not problem and end != stages:
        problem = f"the last unit ends at stage {end}"
    if problem:
        raise UserError(
            f"train.local_blocks: {problem}; this encoder has stages 1 to {stages}: give for"
            f" instance {[[n, n + 1] for n in range(1, stages)]}"
        )


def _check_method(method: Method, name: str) -> None:
    """Raise UserError for a method that cannot be trained in units."""
    if method.NEEDS_LABELS or list(method.networks()) != ["encoder"]:
        raise UserError(
            f"train.local_blocks: method {name} has a teacher or learns labels; use one with a"
            " single network, such as simclr, mio, barlow_twins, vicreg or simsiam"
        )
