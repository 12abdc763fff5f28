"""The training loop, for one CPU, one GPU or many: read it from top to bottom."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speechssl import conf, distributed, processes, threads
from speechssl.compat import tune_allocator
from speechssl.config import Overrides, as_words
from speechssl.config import read as read_yaml
from speechssl.data.crops import Batch
from speechssl.diagnostics.monitor import Alarm
from speechssl.errors import UserError
from speechssl.files import ModelFolder, RunFolder
from speechssl.interfaces import Progress
from speechssl.nn.products import select_kernel
from speechssl.train.about import describe
from speechssl.train.checkpoint import save_snapshot, save_state
from speechssl.train.checks import StepLoss, any_rank, stop_if_not_finite
from speechssl.train.data import read_utterances, with_decoded_gb
from speechssl.train.heldout import Heldout, HeldoutMeter, read_heldout
from speechssl.train.logs import Clock, Log, sync
from speechssl.train.optimizers import clip_gradients, clipped_parameters, schedule
from speechssl.train.rehearsal import print_plan, rehearse, steps_in
from speechssl.train.resuming import same_data, same_heldout, same_settings
from speechssl.train.run import Run
from speechssl.train.settings import TrainSettings, resolve, with_precision, with_train
from speechssl.train.together import ended_early, is_asked_to_end, sole_writer_in_first
from speechssl.train.tracked import show_crops, show_embeddings, tracked
from speechssl.train.tracking import Named, Tracking, build_trackers
from speechssl.weights import read_checkpoint


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
            if skipped and not quiet:
                total = len(utterances) + len(skipped)
                print(
                    f"{len(skipped)} of {total} utterances left out, listed in {folder.skipped}",
                    file=sys.stderr,
                )
            if not quiet and run.batches.reader.decoded is not None:
                print(run.batches.reader.decoded.describe(), file=sys.stderr)
        finish(run, folder, trackers, resumed=resume, quiet=quiet, heldout=heldout)
    return folder.path


def refuse_another_run(folder: RunFolder) -> None:
    """Raise UserError if a folder holds a run."""
    if folder.last.exists():
        raise UserError(
            f"train: {folder.path} holds a run already; give --resume to continue it, or another"
            " --out"
        )


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


def restore(run: Run, folder: RunFolder) -> None:
    """Continue a run from its last checkpoint.

    Raises:
        UserError: the checkpoint is damaged, or of another run.
    """
    restore_from(run, read_checkpoint(folder.last), folder.last)


def restore_from(run: Run, state: Mapping[str, Any], path: Path) -> None:
    """Continue a run from a state that was read from `path`.

    Raises:
        UserError: it is damaged, or of another run.
    """
    try:
        run.restore(state)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"train: {path} is not the state of this run ({type(error).__name__}: {reason});"
            " start again with another --out"
        ) from error


def set_threads(requested: int | str, world: distributed.World, quiet: bool = False) -> None:
    """Set the number of threads to ``train.threads``; on a CPU, report it unless ``quiet``."""
    count = threads.choose(requested, distributed.processes_here())
    torch.set_num_threads(count)
    if world.first and world.device.type == "cpu" and not quiet:
        print(threads.describe(count), file=sys.stderr)


def set_kernel(train: TrainSettings, world: distributed.World, quiet: bool = False) -> None:
    """Select the library of float32 products; report it where it matters, unless ``quiet``."""
    assert train.float32_kernel != "auto"  # `with_precision` has chosen
    select_kernel(train.float32_kernel)
    on_cpu = world.first and world.device.type == "cpu"
    if on_cpu and train.precision == "float32" and not quiet:
        print(f"float32 products: {train.float32_kernel}", file=sys.stderr)


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


def save(run: Run, folder: RunFolder) -> None:
    """Write the state to resume from, and a snapshot of the encoder that users get."""
    if run.world.first:
        encoder = run.method.encoder.state_dict()
        save_snapshot(folder, run.step, encoder, run.config.train.keep)
    save_last(run, folder)


def save_last(run: Run, folder: RunFolder) -> None:
    """Write the state to resume from; the log is on the disk before it."""
    state = run.state()  # in every process: they add up what they have measured
    if run.world.first:
        sync(folder.log)
        save_state(state, folder.last)
    run.world.barrier()


def save_model(run: Run, folder: RunFolder, target: ModelFolder) -> None:
    """Write the encoder that users get as a model, with what ``about.yaml`` says of the run."""
    run.model.about = read_yaml(folder.about) | {"step": run.step, "steps": run.steps}
    run.model.encoder.load_state_dict(run.method.encoder.state_dict())
    run.model.save(target.path)
