"""Processes that end in order: one writer an output, workers that do not outlive their parent, signals."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from speechssl.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks: two writers there are the user's to avoid
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def sole_writer(output: str | Path) -> Iterator[None]:
    """Hold the lock of an output file or folder; a second process that wants it is refused.

    The lock is the kernel's, on a hidden file in the folder (or beside the file): it ends with the
    process that holds it, however that ends. Where the file system knows no locks, none is taken.

    Raises:
        UserError: another process holds it.
    """
    output = Path(output)
    path = output / ".lock" if output.is_dir() else output.with_name(f".{output.name}.lock")
    file = _lock(path, output)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is held: nobody else's is removed
            file.close()


def _lock(path: Path, output: Path) -> IO[str] | None:
    if fcntl is None:
        return None
    while True:
        file = open(path, "a+", encoding="ascii")  # noqa: SIM115 (it is closed by `sole_writer`)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip()
            file.close()
            who = f" (process {holder})" if holder.isdigit() else ""
            raise UserError(
                f"{output}: another process{who} is writing it; wait for it, or give another --out"
            ) from None
        except OSError:  # a file system without locks
            file.close()
            return None
        if _is_still(path, file):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()  # its holder removed it while we waited to open it: take the new one


def _is_still(path: Path, file: IO[str]) -> bool:
    """True if `path` names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def end_with_parent() -> None:
    """In a worker process: exit as soon as the parent is gone, even if it was killed.

    Call it first in a worker of multiprocessing; in the main process it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


class Terminated(BaseException):
    """SIGTERM arrived: files that are not complete are removed on the way out, as on Ctrl-C."""


TERMINATED_CODE = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end, 143."""


def raise_on_sigterm() -> None:
    """Let SIGTERM raise `Terminated` in the main thread, in place of ending the process at once.

    A handler that somebody else has installed is left alone; so is a thread that is not the main
    one, which may install none.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the way out is not to be interrupted
    raise Terminated


class StopRequest:
    """Whether SIGTERM or SIGUSR1 asked a loop to end after the step at hand.

    Attributes:
        signal: number of the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGUSR1 into a request that the loop inside can read; the old handlers return
    at the end.

    Cluster schedulers send one of them some time before they kill a job.
    """
    request = StopRequest()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None:
                before[number] = signal.signal(number, request._take)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
