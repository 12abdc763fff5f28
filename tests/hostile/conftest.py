"""Processes that hostile tests need, and the count of their cases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hostile_runs import Cases, Runner


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


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """Runs commands in a process of their own; one for the tests of a file."""
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Iterator[Cases]:
    """Counts what a test tries and what held, for the table (`python -m tests.hostile.table`)."""
    counted = Cases()
    request.node.user_properties.append(("counts cases", True))
    yield counted
    for row in counted.rows():
        request.node.user_properties.append(("cases", row))
