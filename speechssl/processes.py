"""Processes that end in order: workers that do not outlive their parent, commands, signals."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

from speechssl.pools import start_thread

_ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if hasattr(signal, name)  # Windows has no SIGUSR1
)
"""Signals that end a command; the parent alone acts on them, not its workers."""


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Let the processes that are started inside be born with the signals of `_ENDING` blocked.

    Ctrl-C, and some schedulers, signal every process of a group. Without this, a worker that is
    still importing ends in a traceback, or is missed by its parent, which reports it as a failure.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The first process that is spawned starts this one, and unblocks signals behind it.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a worker process: exit once the parent is gone, even if it was killed, or terminates us.

    Signals that somebody sends to the whole group are left to the parent. Call it first in a worker
    of multiprocessing; in the main process it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sys.excepthook = _say_unless_hung_up
    inherited = _temporary_folder()
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # of the threads started here, too
        start_thread(_exit_when_terminated_by, parent.pid, inherited, name="exit when terminated")
    start_thread(_exit_after_parent, parent.sentinel, inherited, name="exit after parent")


def _say_unless_hung_up(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error of a worker's thread, unless the process that it spoke to has hung up.

    A batch is handed over by a thread of `multiprocessing.resource_sharer`. A parent that Ctrl-C
    interrupts while it takes one closes the connection, and the thread would print a traceback.
    """
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _exit_after_parent(sentinel: int, inherited: str | None) -> None:
    # Siblings that were forked later hold copies of the sentinel: the parent's number tells sooner.
    started_by = os.getppid()
    while os.getppid() == started_by:
        if multiprocessing.connection.wait([sentinel], timeout=1.0):
            break
    _exit_at_once(1, inherited)


def _exit_when_terminated_by(parent: int, inherited: str | None) -> None:
    while True:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == parent:
            _exit_at_once(TERMINATED_CODE, inherited)


def _exit_at_once(code: int, inherited: str | None) -> None:
    """End a worker without its exit handlers, but not without its temporary folder.

    `multiprocessing` makes one (`pymp-...`) where a worker hands over its first batch.
    """
    folder = _temporary_folder()
    if folder is not None and folder != inherited:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def _temporary_folder() -> str | None:
    """Return the folder that multiprocessing has made for this process, or that of its parent."""
    settings = getattr(multiprocessing.current_process(), "_config", {})
    return settings.get("tempdir")


class Terminated(BaseException):
    """SIGTERM or SIGUSR1 arrived: incomplete files are removed on the way out, as on Ctrl-C.

    The message is one line for the user, or empty.
    """


TERMINATED_CODE = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end, 143."""

INTERRUPTED_CODE = 128 + signal.SIGINT
"""Exit code after Ctrl-C, 130."""


class EndingSignal:
    """The first signal that asked a command to end.

    Attributes:
        code: exit code that goes with it, or None if there was none.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._before: dict[int, Any] = {}
        self._hook_before = sys.unraisablehook

    def install(self) -> None:
        """Raise in the main thread when one arrives; handlers that somebody else has set stay."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _ENDING:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = handler
                signal.signal(number, self._arrive)
        sys.unraisablehook = self._was_lost

    def restore(self) -> None:
        """Set the handlers of before again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook_before

    def exit_at_once(self) -> None:
        """From now on end the process at once; nothing is left to clean up."""
        for number in self._before:
            signal.signal(number, lambda number, frame: os._exit(_code_of(number)))

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        is_first = self.code is None
        if is_first:
            self.code = _code_of(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if is_first:  # the way out is not to be interrupted by another one
            raise Terminated("terminated")

    def _was_lost(self, unraisable: Any) -> None:
        """Raise once more what was raised in a `__del__` or the like, where Python drops it."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt | Terminated):
            self._hook_before(unraisable)
            return
        again = threading.Timer(0.05, _thread.interrupt_main)
        again.daemon = True
        again.start()


def _code_of(number: int) -> int:
    return INTERRUPTED_CODE if number == signal.SIGINT else TERMINATED_CODE


@contextlib.contextmanager
def raise_on_signals(*, ends_process: bool = False) -> Iterator[EndingSignal]:
    """Raise `KeyboardInterrupt` on Ctrl-C, and `Terminated` on SIGTERM and SIGUSR1, inside the block.

    Args:
        ends_process: nothing but the interpreter's own end comes after the block; a signal that
            arrives there ends the process at once, without a traceback.
    """
    arrived = EndingSignal()
    arrived.install()
    try:
        yield arrived
    finally:
        if ends_process:
            arrived.exit_at_once()
        else:
            arrived.restore()


def end_now(code: int) -> None:
    """End this process after a signal: what was registered for its end runs, and nothing else.

    The interpreter's own end takes native libraries apart. One that the signal has interrupted in
    the middle may crash there ("Fatal Python error"), and the exit code would be the crash's.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


def run_command(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit code.

    If this process is asked to end, so is the command, and its end is awaited. On Linux it is asked
    to end (SIGTERM) if this process is killed, too.
    """
    with start_command(command) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def start_command(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command; on Linux it is asked to end (SIGTERM) if this process is killed.

    Call it in the main thread: the command ends with the thread that started it.

    Args:
        command: program and arguments.
        options: of `subprocess.Popen`.
    """
    return subprocess.Popen(command, preexec_fn=_terminate_after_parent(), **options)


def _terminate_after_parent() -> Callable[[], None] | None:
    """Return what makes Linux send SIGTERM to a new process when its parent has ended."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    parent = os.getpid()

    def ask() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended before we could ask
            os._exit(TERMINATED_CODE)

    return ask


def end_with_torchrun() -> None:
    """In a process of torchrun: let Linux send SIGTERM to it when torchrun was killed.

    Otherwise the processes would train on, unseen.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
