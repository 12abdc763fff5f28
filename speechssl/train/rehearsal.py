"""A few steps before hours are spent: is everything sound, and how long will it take?"""

from __future__ import annotations

import statistics
import time

import torch
import torch.distributed as dist

from speechssl.errors import UserError
from speechssl.train.optimizers import schedule
from speechssl.train.run import Run

_WARM_UP = 3


def rehearse(run: Run, count: int) -> float:
    """Seconds of an optimiser step, loading included, as the slowest process sees it.

    Takes real steps: ``run`` is spent afterwards. With more than one step the loader's own workers
    are started and the first steps, which fill their queue, are not counted.

    Raises:
        UserError: the loss of the first batch is not finite.
    """
    model, times, begun = run.parallel(), [], time.perf_counter()
    passes = (count + _WARM_UP if count > 1 else 1) * run.train["accumulate"]
    for index, batch in enumerate(run.loader(0, passes, workers=None if count > 1 else 0)):
        with run.autocast():
            output = model(run.views(batch, index), run.progress())
        output.loss.backward()
        if not bool(output.loss.isfinite()):
            raise UserError(
                f"train: the loss of the first batch is {float(output.loss)}; set"
                " train.precision=float32"
            )
        if (index + 1) % run.train["accumulate"] == 0:
            schedule(run.optimizer, run.optimizer_settings, 0.0, run.batch)
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            times.append(time.perf_counter() - begun)
            begun = time.perf_counter()
    seconds = torch.tensor(statistics.median(times[_WARM_UP:] or times), device=run.world.device)
    if run.world.size > 1:
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def print_plan(run: Run, utterances: int, skipped: int, seconds: float) -> None:
    """What a run will be, on standard output of the first process."""
    if not run.world.first:
        return
    parameters = sum(p.numel() for p in run.model.encoder.parameters())
    print(
        f"configuration and data are sound: {utterances} utterances ({skipped} left out),"
        f" {run.batch} a step, {run.per_epoch} steps an epoch, {run.steps} steps; encoder of"
        f" {parameters / 1e6:.2f} M parameters; about {seconds:.2f} s a step (the first is slow),"
        f" {seconds * run.steps / 3600:.2f} h in all on {run.world.size} x {run.world.device}"
    )
