"""The training loop: to be read from top to bottom, for one CPU, one GPU or many."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from speechssl import config, distributed, threads
from speechssl.compat import tune_allocator
from speechssl.errors import UserError
from speechssl.model import CONFIG, LAST, load_state
from speechssl.train import checkpoint
from speechssl.train.logs import Clock, Log, Meter
from speechssl.train.optimizers import clip_gradients, schedule
from speechssl.train.rehearsal import print_plan, rehearse
from speechssl.train.run import Run, read_utterances
from speechssl.train.settings import resolve, with_precision


def train(
    config_path: str,
    overrides: Sequence[str] = (),
    *,
    out: str | Path,
    resume: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    minutes: float | None = None,
) -> Path:
    """Train a method as a configuration says and leave a run folder behind.

    Args:
        config_path: YAML file.
        overrides: ``key=value`` pairs on top of it.
        out: run folder (see ``checkpoint``).
        resume: continue a run that was stopped; it ends as if it had not been.
        dry_run: check configuration and data and take one step; write nothing.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        minutes: choose ``train.steps`` so that training takes about this long on this machine: a
            few steps are timed first, and the number is written into the run's configuration.

    Returns:
        The run folder.

    Raises:
        UserError: whatever a user can mend.
    """
    tune_allocator()
    out = Path(out)
    if minutes is not None and not resume:
        overrides = [*overrides, "train.epochs=null", "train.steps=1000000"]
    settings = resolve(config_path, overrides)
    world = distributed.start(device)
    try:
        set_threads(settings["train"]["threads"], world)
        if resume and (out / CONFIG).exists():
            settings = checkpoint.same_settings(out, settings, keep_steps=minutes is not None)
        elif not dry_run and (out / LAST).exists():
            raise UserError(
                f"train: {out} holds a run already; give --resume to continue it, or another --out"
            )
        settings = with_precision(settings, str(world.device))
        utterances, skipped = read_utterances(settings)
        run = Run(settings, world, utterances)
        if dry_run or (minutes is not None and not resume):
            seconds = rehearse(run, 1 if dry_run else 8)
            if dry_run:
                print_plan(run, len(utterances), len(skipped), seconds)
                return out
            overrides = [*overrides, f"train.steps={max(20, int(60 * minutes / seconds))}"]  # type: ignore[operator]
            settings = with_precision(resolve(config_path, overrides), str(world.device))
            run = Run(settings, world, utterances)
        if resume and (out / LAST).exists():
            checkpoint.same_data(out, utterances, settings)
            run.restore(load_state(out / LAST))
        if world.first:
            checkpoint.describe(out, settings, utterances, skipped)
            if run.step == 0:
                _save_model(run, out / checkpoint.UNTRAINED)
        _steps(run, out)
        if world.first:
            _save_model(run, out / checkpoint.MODEL)
        world.barrier()
    finally:
        distributed.stop()
    return out


def set_threads(requested: int | str, world: distributed.World) -> None:
    """Compute with as many threads as ``train.threads`` says, and say so on a CPU."""
    count = threads.choose(requested, distributed.processes_here())
    torch.set_num_threads(count)
    if world.first and world.device.type == "cpu":
        print(threads.describe(count), file=sys.stderr)


def _steps(run: Run, out: Path) -> None:
    """Step until the end, logging, watching and saving on the way."""
    train, world = run.train, run.world
    model = run.parallel()
    log = Log(out, run.steps, run.step, world.first)
    meter, clock = Meter(), Clock(run.batch)
    watch = run.settings["monitor"]
    monitor = run.monitor
    unchecked: list[tuple[int, Tensor, Tensor]] = []
    accumulate = train["accumulate"]
    loader = run.loader(run.step * accumulate, run.steps * accumulate)
    batches = iter(loader)
    while run.step < run.steps:
        progress = run.progress()
        lr = schedule(run.optimizer, run.optimizer_settings, progress.fraction, run.batch)
        for part in range(1, accumulate + 1):
            with clock.waiting():
                batch = next(batches)
            together = part == accumulate or world.size == 1
            with contextlib.nullcontext() if together else model.no_sync():  # type: ignore[operator]
                with run.autocast():
                    output = model(run.views(batch, run.step * accumulate + part - 1), progress)
                (output.loss / accumulate).backward()
            unchecked.append((run.step, batch.indices, output.loss.detach()))
            meter.add({"loss": output.loss.detach(), **output.scalars})
            monitor.add(output.embedding, output.projections[0])
        norm = clip_gradients(run.method.parameters(), run.optimizer_settings)
        run.method.after_backward(progress)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.method.after_step(progress)
        run.step += 1
        clock.step()
        log.tick()

        end = run.step == run.steps
        saving, logging = (
            end or run.step % train[f"{what}_every"] == 0 for what in ("save", "log")
        )
        if saving or logging:
            _stop_if_not_finite(run, unchecked, out)
            unchecked.clear()
        if logging:
            figures = {"epoch": run.progress().epoch, "lr": lr, **meter.read(), **clock.read()}
            figures |= {"gradient_norm": float(norm)} if norm is not None else {}
            figures |= {"unreadable": len(loader.errors.failed)} if loader.errors.failed else {}
            if run.step % watch["every"] == 0 or end:
                figures |= monitor.figures()
            alarms = monitor.check(figures) if progress.fraction >= watch["after"] else []
            log.write(run.step, figures | ({"alarms": [str(a) for a in alarms]} if alarms else {}))
            for alarm in alarms:
                log.say(str(alarm))
            end = _any_rank(bool(alarms) and watch["stop"], world) or end
        if saving or end:
            _save(run, out)
        if end:
            break
    log.close()


def _stop_if_not_finite(run: Run, losses: list[tuple[int, Tensor, Tensor]], out: Path) -> None:
    """Raise, in every process, if a loss since the last look or a weight is not finite.

    What was saved before stays: nothing is saved without this look.
    """
    bad = [entry for entry in losses if not math.isfinite(float(entry[2]))]
    weights = torch.stack(torch._foreach_norm(list(run.method.parameters())))
    if not bad and not bool(weights.isfinite().all()):
        bad = losses[-1:]  # the step that broke the weights had a finite loss itself
    if not _any_rank(bool(bad), run.world):
        return
    where = f"up to step {run.step}, on another rank"
    if bad:
        step, indices, _ = bad[0]
        names = ", ".join(run.utterances[i].id for i in indices[:5].tolist())
        where = f"in step {step} (utterances {names}, ...)"
    raise UserError(
        f"train: the loss or a weight is not finite {where}; the last good state is in {out}; lower"
        " optimizer.lr or set train.precision=float32"
    )


def _any_rank(flag: bool, world: distributed.World) -> bool:
    """True everywhere if it is true in any process, so that all of them stop together."""
    if world.size == 1:
        return flag
    shared = torch.tensor(float(flag), device=world.device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return bool(shared)


def _save(run: Run, out: Path) -> None:
    """The state to resume from and a snapshot of the encoder that users get."""
    if run.world.first:
        checkpoint.save_snapshot(out, run.step, run.method.encoder.state_dict(), run.train["keep"])
        checkpoint.save_atomically(run.state(), out / LAST)
    run.world.barrier()


def _save_model(run: Run, folder: Path) -> None:
    """A model folder of the encoder that users get, with what is known of it."""
    about = config.read(folder.parent / checkpoint.ABOUT)
    run.model.about = about | {"step": run.step, "steps": run.steps}
    run.model.encoder.load_state_dict(run.method.encoder.state_dict())
    run.model.save(folder)
