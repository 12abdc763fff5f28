"""A few steps before the run: do configuration and data work, and how long will it take?"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.distributed as dist

from speechssl.errors import UserError
from speechssl.train.optimizers import schedule
from speechssl.train.run import Run

_WARM_UP = 3
_MIN_STEPS = 20
_MAX_BATCHES = 1_000_000


def rehearse(run: Run, steps: int) -> float:
    """Take optimiser steps and return the seconds of one, loading included.

    The steps are real, so ``run`` must not be used for training afterwards. With more
    than one step the loader's workers are started. The first steps are not counted, as
    many as take the batches that the workers have ready while the first step starts the
    device: a fast device would seem never to wait. Then each worker gives one batch at
    least.

    Args:
        run: at its beginning.
        steps: that are counted at least.

    Returns:
        The mean, and of several processes the slowest one's.

    Raises:
        UserError: a loss is not finite.
    """
    config = run.config
    passes = config.train.gradient_accumulation_steps
    warm_up = 0
    if steps == 1:
        loader = run.loader(0, passes, workers=0)
    else:
        loader = run.loader(0, _MAX_BATCHES)
        warm_up = max(_WARM_UP, math.ceil(loader.ahead / passes))
        steps = max(steps, math.ceil(loader.workers / passes))
    model = run.parallel()
    times = []
    started_at = time.perf_counter()
    for index, batch in enumerate(loader):
        with run.autocast():
            output = model(run.views(batch, index), run.progress())
        output.loss.backward()
        if not bool(output.loss.isfinite()):
            raise UserError(
                f"train: the loss of the first batch is {float(output.loss)}; set"
                " train.precision=float32"
            )
        if (index + 1) % passes == 0:
            schedule(run.optimizer, config.optimizer, 0.0, run.batch_size)
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            times.append(time.perf_counter() - started_at)
            started_at = time.perf_counter()
            if len(times) == warm_up + steps:
                break
    seconds = torch.tensor(statistics.mean(times[warm_up:]), device=run.world.device)
    if run.world.size > 1:
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def steps_in(minutes: float, seconds: float) -> int:
    """Return how many steps of so many seconds fit into so many minutes, at least 20."""
    return max(_MIN_STEPS, int(60 * minutes / seconds))


def print_plan(
    run: Run, skipped: int, seconds: float, heldout: Mapping[str, float] = MappingProxyType({})
) -> None:
    """Print on standard output what a run will be; only the first process prints.

    Args:
        run: before its first step.
        skipped: number of utterances that are left out.
        seconds: of one step.
        heldout: figures of held-out utterances, where some are measured.
    """
    if not run.world.first:
        return
    parameters = sum(p.numel() for p in run.model.encoder.parameters())
    print(
        f"configuration and data: ok; {len(run.utterances)} utterances ({skipped} left out),"
        f" {run.batch_size} a step, {run.steps_per_epoch} steps an epoch, {run.steps} steps;"
        f" encoder of {parameters / 1e6:.2f} M parameters; about {seconds:.2f} s a step (the first"
        f" is slow), {seconds * run.steps / 3600:.2f} h in all on {run.world.size} x"
        f" {run.world.device}"
    )
    if heldout:
        rate = heldout.get("heldout_eer")
        shown = f", EER {rate:.2f}% before the first step" if rate is not None else ""
        print(
            f"held-out utterances: ok{shown}; {heldout['heldout_seconds']:.1f} s each time, every"
            f" {run.config.heldout.every} steps"
        )
