"""Several processes that embed: those that `--jobs` starts, or those of torchrun."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed

from speechssl import processes
from speechssl.embed.partial import write_json
from speechssl.errors import UserError, what_ran_out
from speechssl.threads import choose

T = TypeVar("T")

_NAME = "speechssl-embed-"
"""Beginning of the names of worker processes."""
_UNGUARDED_CODE = 78
"""Exit code of a worker that would embed while it imports the script."""


class Group:
    """The processes that torchrun started (RANK and WORLD_SIZE in the environment), or this one.

    As a context manager it joins the process group and leaves it.

    Attributes:
        rank: number of this process.
        world: number of processes.
        local_rank: number of this process on its machine.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self._joined = False

    def __enter__(self) -> Group:
        if self.world > 1 and not torch.distributed.is_initialized():
            # A rank may wait for the slowest one as long as that one embeds.
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
            self._joined = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._joined:
            torch.distributed.destroy_process_group()

    def share(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 and return its result on every rank.

        Raises:
            UserError: `make` raised it on rank 0; it is raised on every rank.
        """
        if self.world == 1:
            return make()
        box: list[Any] = [None]
        if self.rank == 0:
            try:
                box = [make()]
            except UserError as error:
                box = [error]
        torch.distributed.broadcast_object_list(box, src=0)
        if isinstance(box[0], UserError):
            raise box[0]
        return cast(T, box[0])

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            torch.distributed.barrier()


def run_processes(jobs: int, folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in fresh processes, which share this one's threads.

    Args:
        jobs: number of processes.
        folder: where a process leaves its error.
        work: a function of a module, which a fresh process can import.
        arguments: of `work`; they are pickled.

    Raises:
        UserError: what the first process to fail raised, or that it was killed; the
            others are stopped.
    """
    context = multiprocessing.get_context("spawn")
    threads = choose("auto", jobs)
    workers: list[BaseProcess] = []
    for rank in range(jobs):
        inputs = (folder, rank, threads, work, arguments)
        name = f"{_NAME}{rank}"
        workers.append(context.Process(target=_run_worker, args=inputs, name=name))
    try:
        with processes.starting_workers():
            for worker in workers:
                worker.start()
        _wait_for(workers, folder)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()  # at once, even while it is importing; its parts are whole
            if worker.pid is not None:
                worker.join()


def refuse_unguarded_script() -> None:
    """End a worker of `run_processes` that has come here by importing the script of its parent.

    Each worker imports that script. Without `if __name__ == "__main__":` it would embed all again.
    """
    process = multiprocessing.current_process()
    is_importing = getattr(process, "_inheriting", False)
    if is_importing and process.name.startswith(_NAME):
        os._exit(_UNGUARDED_CODE)  # no traceback: the parent says what is wrong


def _wait_for(workers: list[BaseProcess], folder: Path) -> None:
    """Wait for all workers; raise the error of the first that fails."""
    running = {worker.sentinel: rank for rank, worker in enumerate(workers)}
    while running:
        for sentinel in connection.wait(list(running)):
            rank = running.pop(cast(int, sentinel))
            workers[rank].join()
            code = workers[rank].exitcode
            if code:
                raise _failure(folder, rank, code)


def _run_worker(
    folder: Path, rank: int, threads: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Run in a worker process; an error of one line is left in `folder` for the parent to raise."""
    processes.end_with_parent()
    torch.set_num_threads(threads)
    try:
        work(rank, *arguments)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else what_ran_out(error)
        if reason is None:
            raise
        write_json(_error_file(folder, rank), reason)
        sys.exit(2)


def _failure(folder: Path, rank: int, code: int) -> UserError:
    """Return the error of a worker that ended with an exit code that is not 0."""
    if code == _UNGUARDED_CODE:
        return UserError(
            "embed: each of several jobs imports the script that calls this; put the call under `if"
            ' __name__ == "__main__":`'
        )
    written = _error_file(folder, rank)
    if written.exists():
        return UserError(json.loads(written.read_text(encoding="utf-8")))
    return UserError(
        f"embed: process {rank} ended with exit code {code} (out of memory?); go on with --resume"
        " and fewer --jobs"
    )


def _error_file(folder: Path, rank: int) -> Path:
    return folder / f"error-{rank}.json"
