"""What the processes of a run decide together: who writes the folder, and when they end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from speechssl.distributed import World
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.locks import sole_writer_in
from speechssl.processes import StopRequest
from speechssl.train.checks import any_rank
from speechssl.train.run import Run

STEPS_BETWEEN_QUESTIONS = 10
"""Several GPUs agree to end every so many steps: an answer waits until they have no work left."""


@contextlib.contextmanager
def sole_writer_in_first(folder: RunFolder, world: World) -> Iterator[None]:
    """Hold the lock of the run folder in the first process; all are refused together."""
    refused: UserError | None = None
    with contextlib.ExitStack() as lock:
        if world.first:
            try:
                lock.enter_context(sole_writer_in(folder.path))
            except UserError as error:
                refused = error
        if any_rank(refused is not None, world):
            raise refused or UserError(f"{folder.path}: refused by the first process")
        yield


def is_asked_to_end(run: Run, request: StopRequest) -> bool:
    """Return whether SIGTERM or SIGUSR1 has reached any process, the same in all of them."""
    on_gpus = run.world.size > 1 and run.world.device.type == "cuda"
    if on_gpus and run.step % STEPS_BETWEEN_QUESTIONS:
        return False
    return any_rank(request.signal is not None, run.world)


def ended_early(run: Run, folder: RunFolder) -> str:
    """Return the line that tells what a run that was asked to end has left."""
    return (
        f"train: asked to end; saved after step {run.step} of {run.steps} in {folder.path};"
        " continue with --resume"
    )
