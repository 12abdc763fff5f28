"""The training loop, for one CPU, one GPU or many: read it from top to bottom.

Its neighbours are what it needs on the way: `machine.py`, `rehearsal.py`, `resuming.py`, `saving.py`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speechssl import conf, distributed, processes
from speechssl.compat import tune_allocator
from speechssl.config import Overrides, as_words
from speechssl.data.crops import Batch
from speechssl.diagnostics.monitor import Alarm
from speechssl.files import RunFolder
from speechssl.interfaces import Progress
from speechssl.train.about import describe
from speechssl.train.checks import StepLoss, any_rank, stop_if_not_finite
from speechssl.train.data import read_utterances, with_decoded_gb
from speechssl.train.heldout import Heldout, HeldoutMeter, read_heldout
from speechssl.train.logs import Clock, Log
from speechssl.train.machine import set_kernel, set_threads
from speechssl.train.optimizers import clip_gradients, clipped_parameters, schedule
from speechssl.train.rehearsal import print_plan, rehearse, steps_in
from speechssl.train.resuming import (
    refuse_another_run,
    restore,
    same_data,
    same_heldout,
    same_settings,
)
from speechssl.train.run import Run
from speechssl.train.saving import save, save_last, save_model
from speechssl.train.settings import resolve, with_precision, with_train
from speechssl.train.together import ended_early, is_asked_to_end, sole_writer_in_first
from speechssl.train.tracked import show_crops, show_embeddings, tracked
from speechssl.train.tracking import Named, Tracking, build_trackers


def train(
    config_path: str | Path,
    overrides: Overrides = (),
    *,
    out: str | Path,
    resume: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    minutes: float | None = None,
    quiet: bool = False,
) -> Path:
    """Train a method as a configuration says and write a run folder.

    Args:
        config_path: YAML file, or the name of a configuration that comes with the package.
        overrides: settings on top of it, ``["train.steps=100"]`` or ``{"train.steps": 100}``.
        out: run folder (see ``files.RunFolder``).
        resume: continue a run that was stopped; it ends as if it had not been stopped.
        dry_run: check configuration and data and take one step; write nothing.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        minutes: choose ``train.steps`` so that training takes about this long on this
            machine: a few steps are timed first, and the number is written into the
            run's configuration.
        quiet: say nothing on standard error but alarms and warnings; in a notebook,
            ``{"train.trackers": ["notebook"]}`` shows the curves instead.

    Returns:
        The run folder.

    Raises:
        UserError: a mistake in configuration, data or options, a loss that is not
            finite, or another process writes the run folder.
        processes.Terminated: SIGTERM or SIGUSR1 arrived; the state was saved after the
            step at hand, and ``resume`` continues from it.
    """
    tune_allocator()
    folder = RunFolder(out)
    words = as_words(overrides)
    if minutes is not None and not resume:
        words += ["train.epochs=null", "train.steps=1000000"]
    config = resolve(str(conf.locate(config_path)), words)
    trackers = build_trackers(config.train.trackers)
    world = distributed.start(device)
    with contextlib.ExitStack() as resources:
        resources.callback(distributed.stop)
        if not dry_run:
            resources.enter_context(sole_writer_in_first(folder, world))
        set_threads(config.train.threads, world, quiet)
        if resume and folder.config.exists():
            config = same_settings(folder, config, keep_steps=minutes is not None)
        elif not dry_run:
            refuse_another_run(folder)
        config = with_precision(config, str(world.device))
        set_kernel(config.train, world, quiet)
        utterances, skipped = read_utterances(config.data)
        config = with_decoded_gb(config, len(utterances), world, timed=minutes is not None)
        heldout = read_heldout(config, utterances)
        if world.first and heldout is not None:
            heldout.warn()
        if dry_run:
            run = Run(config, world, utterances)
            measured = HeldoutMeter(run, heldout).measure() if heldout is not None else {}
            print_plan(run, len(skipped), rehearse(run, 1), measured)
            return folder.path
        if minutes is not None and not resume:
            seconds = rehearse(Run(config, world, utterances), 8)
            config = with_train(config, steps=steps_in(minutes, seconds))
        run = Run(config, world, utterances)
        about_heldout = heldout.about() if heldout is not None else None
        if resume and folder.last.exists():
            same_data(folder, config, utterances)
            same_heldout(folder, about_heldout)
            restore(run, folder)
        if world.first:
            describe(folder, config, utterances, skipped, about_heldout)
            if not quiet:
                tell_data(run, folder, skipped=len(skipped))
        finish(run, folder, trackers, resumed=resume, quiet=quiet, heldout=heldout)
    return folder.path


def tell_data(run: Run, folder: RunFolder, *, skipped: int) -> None:
    """Say on standard error how many utterances are left out, and how many are kept decoded."""
    if skipped:
        total = len(run.utterances) + skipped
        print(
            f"{skipped} of {total} utterances left out, listed in {folder.skipped}", file=sys.stderr
        )
    if run.batches.reader.decoded is not None:
        print(run.batches.reader.decoded.describe(), file=sys.stderr)


def finish(
    run: Run,
    folder: RunFolder,
    trackers: Named,
    *,
    resumed: bool,
    quiet: bool = False,
    heldout: Heldout | None = None,
) -> None:
    """Take the steps that a run has left, and save its model.

    Args:
        run: as far as it has come.
        folder: of the run.
        trackers: programs that show it.
        resumed: whether the run was begun before.
        quiet: show no progress.
        heldout: what it is measured on; None: nothing.

    Raises:
        UserError, processes.Terminated: as ``take_steps``.
    """
    meter = HeldoutMeter(run, heldout) if heldout is not None else None
    if run.world.first and run.step == 0:
        save_model(run, folder, folder.untrained)
    with (
        tracked(run, folder, trackers, resumed=resumed) as tracking,
        contextlib.closing(
            Log(folder, run.steps, run.step, run.world.first, tracking, quiet=quiet)
        ) as log,
        processes.stop_request() as request,
    ):
        take_steps(run, folder, request, tracking, log, meter)
    if run.world.first:
        save_model(run, folder, folder.model)
    run.world.barrier()


def take_steps(
    run: Run,
    folder: RunFolder,
    request: processes.StopRequest,
    tracking: Tracking,
    log: Log,
    meter: HeldoutMeter | None = None,
) -> None:
    """Take all steps that are left; log, watch for collapse and save on the way.

    Args:
        run: as far as it has come.
        folder: where its state and snapshots go.
        request: whether it is to end after the step at hand.
        tracking: programs that show the run.
        log: where its figures go.
        meter: what measures it on held-out utterances, for the log alone; None: nothing.

    Raises:
        UserError: a loss or a weight is not finite.
        processes.Terminated: ``request`` said so; the state is saved.
    """
    config = run.config
    model = run.parallel()
    clock = Clock(run.batch_size)
    unchecked: list[StepLoss] = []
    passes = config.train.gradient_accumulation_steps
    loader = run.loader(run.step * passes, run.steps * passes)
    loader.errors = run.read_errors
    batches = iter(loader)
    if run.step == 0:  # behind the loader, whose workers are best forked when no thread reads
        measured = measure_heldout(run, meter, clock)
        if measured:
            log.write(run.step, measured)

    while run.step < run.steps:
        step = take_step(run, model, batches, clock, tracking)
        unchecked += step.losses
        clock.step()
        log.tick()

        should_save = is_due(run.step, config.train.save_every, last_step=run.steps)
        should_log = is_due(run.step, config.train.log_every, last_step=run.steps)
        should_measure = is_due(run.step, config.monitor.every, last_step=run.steps)
        should_stop = False
        was_asked_to_end = is_asked_to_end(run, request)
        if should_save or should_log or was_asked_to_end:
            stop_if_not_finite(run, unchecked, folder)
            unchecked.clear()
        measured = measure_heldout(run, meter, clock)
        if should_log:
            alarms = write_log(run, step, clock, log, measure=should_measure, heldout=measured)
            should_stop = any_rank(bool(alarms) and config.monitor.stop, run.world)
        elif measured:
            log.write(run.step, measured)
        if should_save or should_stop:
            save(run, folder)
        elif was_asked_to_end:
            save_last(run, folder)  # no snapshot: an unbroken run has none of this step
        show_embeddings(tracking, run)
        if was_asked_to_end and run.step < run.steps:
            raise processes.Terminated(ended_early(run, folder) if run.world.first else "")
        if should_stop:
            break


class Step(NamedTuple):
    """An optimiser step that was taken.

    Attributes:
        progress: where training stood before it.
        lr: the base learning rate.
        losses: the loss of each forward pass; nobody has looked at them yet.
        gradient_norm: before clipping; None where nothing is clipped.
    """

    progress: Progress
    lr: float
    losses: list[StepLoss]
    gradient_norm: Tensor | None


def take_step(
    run: Run, model: nn.Module, batches: Iterator[Batch], clock: Clock, tracking: Tracking
) -> Step:
    """Take one optimiser step, of as many forward passes as gradients are accumulated over.

    Args:
        run: as far as it has come; its step is counted, its meter and monitor are fed.
        model: the method, compiled and wrapped as ``Run.parallel`` returns it.
        batches: of the forward passes.
        clock: what the time spent waiting for batches is added to.
        tracking: programs that show the crops of the first batch.
    """
    progress = run.progress()
    lr = schedule(run.optimizer, run.config.optimizer, run.rate_fraction(), run.batch_size)
    passes = run.config.train.gradient_accumulation_steps
    losses = []
    for number in range(passes):
        with clock.waiting():
            batch = next(batches)
        if run.step == 0 and number == 0:
            show_crops(tracking, run, batch)
        with gradient_sync(model, enabled=number == passes - 1):
            with run.autocast():
                views = run.views(batch, run.step * passes + number)
                output = model(views, progress)
            (output.loss / passes).backward()
        loss = output.loss.detach()
        losses.append(StepLoss(run.step, batch.indices, loss))
        run.meter.add({"loss": loss, **output.scalars})
        run.monitor.add(output.embedding, output.projections[0])
    gradient_norm = clip_gradients(clipped_parameters(run.method), run.config.optimizer)
    run.method.after_backward(progress)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.method.after_step(progress)
    run.step += 1
    return Step(progress, lr, losses, gradient_norm)


def measure_heldout(run: Run, meter: HeldoutMeter | None, clock: Clock) -> dict[str, float]:
    """Return the figures of held-out utterances, nothing if they are not due after this step.

    Args:
        run: as far as it has come.
        meter: what measures them; None: nothing is measured.
        clock: which does not count the time.
    """
    if meter is None or not is_due(run.step, run.config.heldout.every, last_step=run.steps):
        return {}
    with clock.stopped():
        return meter.measure()


def write_log(
    run: Run,
    step: Step,
    clock: Clock,
    log: Log,
    *,
    measure: bool,
    heldout: Mapping[str, float] = MappingProxyType({}),
) -> list[Alarm]:
    """Write a line of the log.

    Args:
        run: as far as it has come.
        step: the last one.
        clock: what measures time.
        log: where the line goes.
        measure: with the figures of embeddings and projections.
        heldout: figures of held-out utterances, which are shown and not judged.

    Returns:
        The alarms that the figures give rise to, once `monitor.after` of the run has passed.
    """
    figures = figures_of(run, step, clock)
    if measure:
        figures |= run.monitor.figures()
    alarms: list[Alarm] = []
    if step.progress.fraction >= run.config.monitor.after:
        alarms = run.monitor.check(figures)
    log.write(run.step, {**figures, **heldout}, [str(alarm) for alarm in alarms])
    return alarms


def figures_of(run: Run, step: Step, clock: Clock) -> dict[str, Any]:
    """Return the figures of a line of the log, means since the line before."""
    figures: dict[str, Any] = {"epoch": run.progress().epoch, "lr": step.lr}
    figures |= run.meter.read() | clock.read()
    if step.gradient_norm is not None:
        figures["gradient_norm"] = float(step.gradient_norm)
    if run.read_errors.failed:
        figures["unreadable"] = len(run.read_errors.failed)
    return figures


def is_due(step: int, every: int, *, last_step: int) -> bool:
    """Return whether something done every so many steps is due after ``step`` steps."""
    return step % every == 0 or step == last_step


def gradient_sync(model: nn.Module, *, enabled: bool) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a forward and backward pass.

    With several processes, gradients are averaged in the last pass of a step only
    (``enabled``).
    """
    if enabled or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
