"""Starts commands, in new interpreters or as forks of this one, and ends them at any moment."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing.util
import os
import pkgutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import speechssl


class Command(Protocol):
    """A command that was started as the leader of a session."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return its exit code (minus the signal that killed it), or None while it runs."""

    def wait(self, timeout: float) -> int:
        """Return its exit code; raise TimeoutExpired if it runs longer."""

    def text(self) -> str:
        """Return what it has printed."""


class Process(subprocess.Popen[str]):
    """The command in a new interpreter, as a shell starts it."""

    def __init__(self, world: Path, words: Sequence[str]) -> None:
        self.printed = _printed(world)
        with self.printed.open("w") as file:
            super().__init__(
                [sys.executable, "-m", "speechssl", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=world,
                env={**os.environ, **_environment(world)},
                start_new_session=True,
            )

    def text(self) -> str:
        """Return what it has printed."""
        return self.printed.read_text(errors="replace")


class Fork:
    """The command in a fork of this process, where all that it imports is loaded already.

    Most of a short command is its imports: of 20 kills few would hit it while it writes, and a
    battery would take an hour.
    """

    def __init__(
        self, world: Path, words: Sequence[str], limit: Callable[[], None] = lambda: None
    ) -> None:
        """Start it; `limit` is called in the new process before the command begins."""
        self.returncode: int | None = None
        # A pipe: a limit on the size of files, or a full disk, does not concern it.
        self._output, self._input = os.pipe()
        os.set_blocking(self._output, False)
        self._text = b""
        self.pid = os.fork()
        if self.pid == 0:
            self._become(world, words, limit)
        os.close(self._input)

    def _become(self, world: Path, words: Sequence[str], limit: Callable[[], None]) -> None:
        code = 1
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for standard in (1, 2):
                os.dup2(self._input, standard)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os.environ.update(_environment(world))
            os.chdir(world)
            sys.argv = ["speechssl", *words]
            limit()
            code = importlib.import_module("speechssl.cli").main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
                multiprocessing.util._exit_function()  # what the interpreter does at its end
            os._exit(code)

    def poll(self) -> int | None:
        """Return its exit code (minus the signal that killed it), or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return its exit code; raise TimeoutExpired if it runs longer."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode

    def text(self) -> str:
        """Return what it has printed so far."""
        with contextlib.suppress(BlockingIOError):  # its children are alive
            while more := os.read(self._output, 65536):
                self._text += more
        return self._text.decode(errors="replace")

    def __del__(self) -> None:
        os.close(self._output)


def load_everything() -> None:
    """Import the package with all that its verbs import, for forks."""
    for info in pkgutil.walk_packages(speechssl.__path__, "speechssl."):
        if not info.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(info.name)


def _printed(world: Path) -> Path:
    return world / "printed.txt"


def _environment(world: Path) -> dict[str, str]:
    (world / "tmp").mkdir(exist_ok=True)
    return {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(world / "tmp"),
        "OMP_NUM_THREADS": "1",
    }


def run(world: Path, *words: str, kind: type[Process] | type[Fork] = Fork) -> float:
    """Run a command to its end and return the seconds that it took."""
    began = time.monotonic()
    command = kind(world, words)
    code = command.wait(600)
    assert code == 0, command.text()
    return time.monotonic() - began


def processes_of(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and int(fields[3]) == session:
                    found.append(int(folder.name))
    return found


@dataclass
class End:
    """What was found after a command was ended.

    Attributes:
        code: its exit code.
        text: what it printed.
        children: processes that were alive 10 s later; they are ended.
    """

    code: int | None
    text: str
    children: int


def end(command: Command, number: int, after: float, *, group: bool = False) -> End:
    """Send a command a signal after so many seconds, or all processes of its group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(after)
    if command.poll() is None:
        if group:
            os.killpg(command.pid, number)
        else:
            os.kill(command.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(60)
    deadline = time.monotonic() + 10
    while processes_of(command.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    alive = processes_of(command.pid)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return End(command.poll(), command.text(), len(alive))
