"""The check that losses and weights are finite, made by all processes together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from speechssl.distributed import World
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.train.run import Run


class StepLoss(NamedTuple):
    """The loss of one forward pass.

    Attributes:
        step: optimiser step that it belongs to.
        indices: (B,) int64, which utterances were in the batch.
        loss: scalar on the device, detached.
    """

    step: int
    indices: Tensor
    loss: Tensor


def stop_if_not_finite(run: Run, losses: Sequence[StepLoss], folder: RunFolder) -> None:
    """Raise UserError, in every process, if a loss or a weight is not finite.

    Called before every save, so no checkpoint ever holds non-finite weights.

    Args:
        run: whose weights are checked.
        losses: since the last check, at least one.
        folder: of the run, for the message.
    """
    bad = [entry for entry in losses if not math.isfinite(float(entry.loss))]
    if not bad and not _weights_are_finite(run):
        bad = [losses[-1]]  # the step that broke the weights had a finite loss itself
    if not any_rank(bool(bad), run.world):
        return
    where = f"up to step {run.step}, on another rank"
    if bad:
        first = bad[0]
        names = ", ".join(run.utterances[index].id for index in first.indices[:5].tolist())
        where = f"in step {first.step} (utterances {names}, ...)"
    raise UserError(
        f"train: the loss or a weight is not finite {where}; the last good state is in"
        f" {folder.path}; lower optimizer.lr or set train.precision=float32"
    )


def _weights_are_finite(run: Run) -> bool:
    norms = torch.stack(torch._foreach_norm(list(run.method.parameters())))
    return bool(norms.isfinite().all())


def any_rank(flag: bool, world: World) -> bool:
    """Return True in every process if ``flag`` is true in any, so that all of them stop together."""
    if world.size == 1:
        return flag
    shared = torch.tensor(float(flag), device=world.device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return bool(shared)
