"""Processes that tests of leftovers need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def dead_process() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def living_process() -> Iterator[Callable[[], int]]:
    """Start a process that lives as long as the test, and return its number."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> int:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[-1].pid

    yield begin
    for process in started:
        process.kill()
        process.wait()
