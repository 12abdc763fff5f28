"""The loader around `CropBatches`: workers, prefetching, time-out, and errors a person can read."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from multiprocessing.util import get_temp_dir
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from speechssl import processes
from speechssl.data.crops import Batch
from speechssl.errors import MachineError, UserError
from speechssl.threads import usable_cores

_SHARED_MEMORY = "/dev/shm"  # through which workers hand over their batches
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103  # bytes of a Unix socket's path
_PREFETCHED = 2  # batches that each worker has ready
_MIN_JUDGED = 200  # utterances before the share of unreadable ones is judged


def worker_count(workers: int = -1, ranks: int = 1, cuda: bool | None = None) -> int:
    """Return the number of loader processes for each rank.

    Args:
        workers: that number, or -1 to choose it from the cores that this process may use.
        ranks: training processes on this machine, which share its cores.
        cuda: whether the encoder runs on a GPU (None: as torch finds). On a CPU the encoder needs
            the cores: one in four goes to loading, and at least one process does, so that reading
            overlaps with training.
    """
    if workers >= 0:
        return workers
    if cuda is None:
        cuda = torch.cuda.is_available()
    share = max(1, usable_cores() // ranks)
    if cuda:
        return max(1, min(16, share - 1))
    return max(1, share // 4)


def workers_that_fit(workers: int, batch_bytes: int, free_bytes: int | None, ranks: int = 1) -> int:
    """Return how many worker processes the shared memory has room for, at most `workers`.

    A worker holds a batch and has two more ready; one is being used. With too little (Docker gives
    64 MB unless told otherwise) workers would be killed in the middle of a run.

    Args:
        workers: that are wanted for each rank.
        batch_bytes: size of a batch.
        free_bytes: room in shared memory; None: unknown, and taken as enough.
        ranks: training processes on this machine.
    """
    if free_bytes is None or not batch_bytes:
        return workers
    room = free_bytes // (ranks * batch_bytes) - 1
    return max(0, min(workers, room // (1 + _PREFETCHED)))


def free_shared_memory() -> int | None:
    """Return the free bytes of /dev/shm, or None where there is none."""
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return None


class _Shared(Dataset[Batch]):
    """Moves each batch into shared memory in the worker that made it.

    Torch would do it in a thread of the worker, which drops a batch that finds no room: the training
    would wait for it until the time-out.
    """

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, step: int) -> Batch:
        batch = self.dataset[step]
        for group in batch.groups:
            group.share_memory_()  # type: ignore[no-untyped-call]
        return batch


class Loader:
    """Iterates over batches that worker processes prepare ahead.

    Args:
        loader: torch's loader of them.
        timeout: seconds after which it gives up, for the message.

    Attributes:
        errors: the utterances that could not be read so far.

    Raises:
        UserError: while iterating, if a worker met one, was killed, or gave no batch for `timeout`
            seconds, or if more than 5 % of at least 200 utterances could not be read.
    """

    def __init__(self, loader: DataLoader[Batch], timeout: float) -> None:
        self.loader = loader
        self.timeout = timeout
        self.errors = ReadErrors()

    @property
    def workers(self) -> int:
        """Processes that prepare batches."""
        return self.loader.num_workers

    @property
    def ahead(self) -> int:
        """Batches that they may have ready before the first one is asked for."""
        return self.workers * _PREFETCHED

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        try:
            with processes.starting_workers():
                batches = iter(self.loader)
            for batch in batches:
                self.errors.add(batch)
                yield batch
        except (UserError, MachineError) as error:
            # Workers send their error with its traceback; its last line is the message.
            lines = [line for line in str(error).splitlines() if line.strip()]
            kind = type(error)
            raise kind(lines[-1].rpartition(f"{kind.__name__}: ")[2]) from None
        except RuntimeError as error:
            reason = self._reason(str(error))
            if not reason:
                raise
            raise UserError(reason) from None

    def _reason(self, message: str) -> str:
        """Return what a RuntimeError of torch's loader means, or "" if it is another one."""
        if "timed out" in message:
            return (
                f"data: no batch for {self.timeout:g} s; is the disk reachable? If it is slow,"
                " raise data.timeout or data.workers"
            )
        if "shared memory" in message:
            return (
                f"data: {_SHARED_MEMORY} has no room for a batch; give it more (docker run"
                " --shm-size=8g), or lower data.workers or train.batch_size"
            )
        if "exited unexpectedly" in message or "killed by signal" in message:
            return (
                "data: a loader worker was killed (out of memory, or of shared memory in"
                " /dev/shm?); lower data.workers or train.batch_size"
            )
        return ""


def make_loader(
    dataset: Dataset[Batch],
    start_step: int,
    steps: int,
    workers: int = -1,
    timeout: float = 300.0,
    ranks: int = 1,
) -> Loader:
    """Return a loader of the batches of steps start_step..steps-1, in order.

    Args:
        dataset: gives the batch of a step.
        start_step: first step.
        steps: the step behind the last one.
        workers: processes; 0 reads in this one (without a time-out); -1: see `worker_count`.
        timeout: seconds without a batch before the run is stopped with a message.
        ranks: training processes on this machine.

    Raises:
        UserError: the name of $TMPDIR is too long for the sockets of workers.
    """
    wanted = worker_count(workers, ranks)
    batch_bytes = getattr(dataset, "batch_bytes", 0)
    count = workers_that_fit(wanted, batch_bytes, free_shared_memory(), ranks)
    if count < wanted:
        warnings.warn(
            f"data: {_SHARED_MEMORY} has room for {count} of {wanted} loader workers; give it more"
            " (docker run --shm-size=8g)",
            stacklevel=2,
        )
    if count:
        _refuse_long_temporary_folder()
    loader: DataLoader[Batch] = DataLoader(
        _Shared(dataset) if count else dataset,
        batch_size=None,
        sampler=range(start_step, steps),
        num_workers=count,
        prefetch_factor=_PREFETCHED if count else None,
        persistent_workers=count > 0,
        pin_memory=torch.cuda.is_available(),
        timeout=timeout if count else 0,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # or it draws from the global one, and a resumed run would differ
    )
    return Loader(loader, timeout)


def _refuse_long_temporary_folder() -> None:
    """Raise UserError if workers could not hand over their batches: they do through a socket in it.

    Torch would lose the error in a thread of the worker, and the training wait until the time-out.
    Newer versions of Python take another folder then.
    """
    folder = get_temp_dir()
    if len(os.path.join(folder, "listener-01234567")) > _LONGEST_SOCKET:
        raise UserError(
            f"data: {os.path.dirname(folder)} is too long for the sockets of loader workers; set"
            " TMPDIR to a folder with a shorter name, or data.workers=0"
        )


def _begin_worker(_number: int) -> None:
    processes.end_with_parent()


class ReadErrors:
    """Counts the utterances that could not be read, in the process that trains.

    (The data set lives in the workers, and keeps nothing.)

    Args:
        limit: share of unreadable utterances at which training stops.

    Attributes:
        read: utterances asked for.
        misses: how many of them could not be read.
        failed: id -> reason, of those that could not be read.
    """

    def __init__(self, limit: float = 0.05) -> None:
        self.limit = limit
        self.read = 0
        self.misses = 0
        self.failed: dict[str, str] = {}

    def state(self) -> dict[str, Any]:
        """Return all that resuming needs."""
        return {"read": self.read, "misses": self.misses, "failed": dict(self.failed)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.read = state["read"]
        self.misses = state["misses"]
        self.failed = dict(state["failed"])

    def add(self, batch: Batch) -> None:
        """Count a batch.

        Raises:
            UserError: more than `limit` of at least 200 utterances could not be read.
        """
        self.read += len(batch.indices)
        self.misses += len(batch.skipped)
        self.failed.update(batch.skipped)
        if self.read >= _MIN_JUDGED and self.misses > self.limit * self.read:
            name, reason = next(iter(self.failed.items()))
            raise UserError(
                f"data: {self.misses} of {self.read} utterances cannot be read, the first {name}:"
                f" {reason}; run `speechssl validate` on the data directory"
            )
