"""Several processes that embed, and the folder of parts that they fill and one of them merges.

A part is `NAME.npy` (N, D) with `NAME.ids.json`; it counts once the latter is there. A run that was
broken off leaves its parts behind, and `--resume` goes on from them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed

from speechssl.data.vectors.files import VectorWriter
from speechssl.embed.batches import Failure
from speechssl.errors import UserError
from speechssl.threads import choose

T = TypeVar("T")

_MADE_BY = "made_by.json"
_ROWS = 4096  # rows gathered at a time when parts are merged


def open_parts(folder: Path, made_by: str, resume: bool) -> set[str]:
    """Make the folder ready and give the ids that it already holds (none without `resume`: it is
    emptied).

    Raises:
        UserError: the parts were made by another model or with other settings (`made_by` differs),
            or the folder cannot be written.
    """
    mark = folder / _MADE_BY
    try:
        if not resume and mark.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if resume and mark.exists() and json.loads(mark.read_text()) != made_by:
            raise UserError(
                f"embed: {folder} was made by another model or with other settings; run without"
                " --resume to start anew"
            )
        for old in (*folder.glob("done-*.json"), *folder.glob("error-*.json")):
            old.unlink()
        _write_json(mark, made_by)
    except (OSError, ValueError) as error:
        raise UserError(
            f"embed: {folder} cannot be used ({error}); remove it or choose another --out"
        ) from error
    return {
        name
        for ids in folder.glob("*.ids.json")
        for name in json.loads(ids.read_text(encoding="utf-8"))
    }


class PartWriter:
    """Writes one process's embeddings: a part when `size` are there or `seconds` have passed."""

    def __init__(self, folder: Path, size: int = 2000, seconds: float = 30.0) -> None:
        self.folder, self.size, self.seconds = folder, size, seconds
        self._since = time.monotonic()
        self._ids: list[str] = []
        self._vectors: list[npt.NDArray[np.float32]] = []

    def write(self, identifier: str, vector: npt.NDArray[np.float32]) -> None:
        """Add one embedding (D,)."""
        self._ids.append(identifier)
        self._vectors.append(vector)
        if len(self._ids) >= self.size or time.monotonic() - self._since > self.seconds:
            self.flush()

    def flush(self) -> None:
        """Put what is held into a part."""
        self._since = time.monotonic()
        if not self._ids:
            return
        name = uuid.uuid4().hex
        temporary = self.folder / f"{name}.tmp"
        with temporary.open("wb") as handle:
            np.save(handle, np.stack(self._vectors))
        os.replace(temporary, self.folder / f"{name}.npy")
        _write_json(self.folder / f"{name}.ids.json", self._ids)
        self._ids, self._vectors = [], []

    def finish(self, rank: int, failed: Sequence[Failure], seconds: float) -> None:
        """Flush, and say that this process is done: what failed, and the seconds of audio
        embedded.
        """
        self.flush()
        report = {"failed": [asdict(failure) for failure in failed], "seconds": seconds}
        _write_json(self.folder / f"done-{rank}.json", report)


def reports(folder: Path, order: Sequence[str]) -> tuple[list[Failure], float]:
    """Failures (in the order of the ids `order`) and seconds of audio of all processes that wrote
    there.
    """
    done = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("done-*.json")]
    place = {identifier: index for index, identifier in enumerate(order)}
    failed = [Failure(**failure) for report in done for failure in report["failed"]]
    return sorted(failed, key=lambda failure: place[failure.id]), sum(
        report["seconds"] for report in done
    )


def merge(folder: Path, order: Sequence[str], writer: VectorWriter) -> int:
    """Write the embeddings of all parts, in the order of the ids `order`, and give their number.

    The parts are mapped, not loaded: memory stays that of the writer.
    """
    where: dict[str, tuple[int, int]] = {}
    parts: list[npt.NDArray[np.float32]] = []
    for ids in sorted(folder.glob("*.ids.json")):
        names = json.loads(ids.read_text(encoding="utf-8"))
        where.update((name, (len(parts), row)) for row, name in enumerate(names))
        parts.append(np.load(ids.with_name(ids.name.replace(".ids.json", ".npy")), mmap_mode="r"))
    present = [identifier for identifier in order if identifier in where]
    for first in range(0, len(present), _ROWS):
        block = present[first : first + _ROWS]
        writer.write(
            block, np.stack([parts[part][row] for part, row in map(where.__getitem__, block)])
        )
    return len(present)


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)


class Group:
    """The processes that torchrun started (environment RANK and WORLD_SIZE), or this one alone."""

    def __init__(self) -> None:
        self.rank, self.world = (
            int(os.environ.get("RANK", "0")),
            int(os.environ.get("WORLD_SIZE", "1")),
        )
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self._ours = False

    def __enter__(self) -> Group:
        if self.world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
            self._ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            torch.distributed.destroy_process_group()

    def share(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, on every rank; a UserError there is raised on every rank."""
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
        return box[0]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            torch.distributed.barrier()


def run_processes(jobs: int, folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in `jobs` fresh processes, each with its share of this one's
    threads.

    Raises:
        UserError: what the first process to fail raised, or that it was killed; the others are
            stopped.
    """
    context = multiprocessing.get_context("spawn")
    threads = choose("auto", jobs)
    processes = [
        context.Process(target=_guarded, args=(folder, rank, threads, work, arguments))
        for rank in range(jobs)
    ]
    try:
        for process in processes:
            process.start()
        waiting = {process.sentinel: process for process in processes}
        while waiting:
            for sentinel in connection.wait(list(waiting)):
                process = waiting.pop(sentinel)  # type: ignore[index, arg-type]
                process.join()
                if process.exitcode:
                    raise _failure(folder, processes.index(process), process.exitcode)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            if process.pid is not None:
                process.join()


def _guarded(
    folder: Path, rank: int, threads: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """What runs in a process: a UserError is left in `folder` for the parent to raise."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops us
    torch.set_num_threads(threads)
    try:
        work(rank, *arguments)
    except UserError as error:
        _write_json(folder / f"error-{rank}.json", str(error))
        sys.exit(2)


def _failure(folder: Path, rank: int, code: int) -> UserError:
    said = folder / f"error-{rank}.json"
    if said.exists():
        return UserError(json.loads(said.read_text(encoding="utf-8")))
    return UserError(
        f"embed: process {rank} ended with exit code {code} (out of memory?); go on with --resume"
        " and fewer --jobs"
    )
