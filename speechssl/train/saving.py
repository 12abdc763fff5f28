"""What a run writes on its way: the state to resume from, snapshots, and the models that users get."""

from __future__ import annotations

from speechssl.config import read as read_yaml
from speechssl.files import ModelFolder, RunFolder
from speechssl.train.checkpoint import save_snapshot, save_state
from speechssl.train.logs import sync
from speechssl.train.run import Run


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
