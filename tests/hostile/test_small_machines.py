"""Full disks, read-only folders, no permission, few descriptors, little memory: one line each.

What a verb has written before is whole, and once there is room it is run again to the bits of an
unbroken run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing_verbs import VERBS, Unbroken, Verb, begin, clear, digests, make_world, unbroken
from starting import Fork, load_everything, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's limits and mounts"),
]
every_verb = pytest.mark.parametrize("name", VERBS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load_everything()
    return make_world(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def wholes(world: Path) -> Callable[[str], Unbroken]:
    """Returns what a verb writes when nothing is wrong."""
    known: dict[str, Unbroken] = {}

    def whole(name: str) -> Unbroken:
        if name not in known:
            known[name] = unbroken(world, VERBS[name])
        return known[name]

    return whole


def refused(world: Path, verb: Verb, limit: Callable[[], None] = lambda: None) -> str:
    """Run a verb that cannot succeed; return its one line of error."""
    command = Fork(world, verb.words(world), limit)
    code = command.wait(300)
    return assert_one_line(code, command.text())


def assert_one_line(code: int, text: str) -> str:
    """Return the one line of error of a command that failed; of a sweep, all that it says.

    A sweep lists the runs that failed, with their reasons, and goes on: its code is 1.
    """
    assert "Traceback" not in text, text
    if code == 1 and "failed; the output is in" in text:
        return text
    assert code == 2, (code, text)
    errors = [line for line in text.splitlines() if line.startswith("speechssl: error:")]
    assert len(errors) == 1, text
    assert len(errors[0]) < 400
    return errors[0]


def ends_well(world: Path, name: str, whole: Unbroken) -> None:
    """Run a verb again, where there is room now."""
    verb = VERBS[name]
    run(world, *verb.words(world), *verb.again)
    assert digests(world) == whole.bits
    clear(world)


def mount(*words: str) -> None:
    """Mount something, or skip the test where that is not allowed."""
    ended = subprocess.run(["mount", *words], capture_output=True, text=True)
    if ended.returncode:
        pytest.skip(f"cannot mount: {ended.stderr.strip()}")


@pytest.fixture
def mounted(world: Path) -> Iterator[Callable[..., None]]:
    """Mount a file system on `WORLD/out`; at the end it is gone."""
    out = world / "out"

    def on_out(*words: str) -> None:
        out.mkdir(exist_ok=True)
        mount(*words, str(out))

    yield on_out
    subprocess.run(["umount", "-l", str(out)], capture_output=True)
    clear(world)


@pytest.mark.parametrize("share", [0.0, 0.6])
@every_verb
def test_a_full_disk(
    world: Path,
    wholes: Callable[[str], Unbroken],
    mounted: Callable[..., None],
    name: str,
    share: float,
) -> None:
    verb = VERBS[name]
    whole = wholes(name)
    given = world / verb.given if verb.given else None
    mounted("-t", "tmpfs", "-o", "size=64m", "none")
    if given:
        subprocess.run(["cp", "-r", f"{given}/.", str(world / "out")], check=True)
    pages = int(share * whole.pages)
    filler = world / "out/filler"
    filler.touch()
    status = os.statvfs(world / "out")
    with filler.open("wb") as file:
        file.write(b"x" * (status.f_bavail * status.f_frsize - 4096 * pages))
    error = refused(world, verb)
    assert "No space left" in error, error
    filler.unlink()
    run(world, *verb.words(world), *verb.again)
    assert digests(world) == whole.bits


@pytest.mark.parametrize("share", [0.0, 0.5])
@every_verb
def test_files_that_may_not_grow(
    world: Path, wholes: Callable[[str], Unbroken], name: str, share: float
) -> None:
    whole = wholes(name)
    begin(world, VERBS[name])
    size = int(share * whole.largest)
    error = refused(world, VERBS[name], limited(resource.RLIMIT_FSIZE, size))
    assert "File too large" in error, error
    ends_well(world, name, whole)


@every_verb
def test_a_read_only_folder(
    world: Path, wholes: Callable[[str], Unbroken], mounted: Callable[..., None], name: str
) -> None:
    whole = wholes(name)
    begin(world, VERBS[name])
    (world / "out").mkdir(exist_ok=True)
    mounted("--bind", str(world / "out"))
    mounted("-o", "remount,ro,bind")
    before = digests(world)
    assert "Read-only file system" in refused(world, VERBS[name])
    assert digests(world) == before
    subprocess.run(["umount", str(world / "out")], check=True)
    ends_well(world, name, whole)


@every_verb
def test_no_permission(world: Path, wholes: Callable[[str], Unbroken], name: str) -> None:
    whole = wholes(name)
    begin(world, VERBS[name])
    (world / "out").mkdir(exist_ok=True)
    folders = [path for path in (world / "out").rglob("*") if path.is_dir()]
    for folder in (*folders, world / "out"):
        folder.chmod(0o555)
    before = digests(world)
    assert "Permission denied" in refused(world, VERBS[name], drop_capabilities)
    assert digests(world) == before
    for folder in (*folders, world / "out"):
        folder.chmod(0o755)
    ends_well(world, name, whole)


def works_or_says_why(world: Path, name: str, whole: Unbroken, limit: Callable[[], None]) -> None:
    """Run a verb under a limit of its process: all of its results, or one line that says why not.

    Afterwards, without the limit, it ends as if nothing had happened. That must hold too where a
    library in C crashes for want of memory, which nothing here can turn into a line.
    """
    begin(world, VERBS[name])
    command = Fork(world, VERBS[name].words(world), limit)
    code = command.wait(300)
    if code == 0:
        assert digests(world) == whole.bits
        clear(world)
        return
    if -code in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT):
        print(f"{name}: {signal.Signals(-code).name}")
    else:
        assert_one_line(code, command.text())
    ends_well(world, name, whole)


@pytest.mark.parametrize("more", [0, 1, 3, 6])
@every_verb
def test_few_file_descriptors(
    world: Path, wholes: Callable[[str], Unbroken], name: str, more: int
) -> None:
    works_or_says_why(world, name, wholes(name), few_descriptors(more))


@pytest.mark.parametrize("megabytes", [10, 60, 250])
@every_verb
def test_little_memory(
    world: Path, wholes: Callable[[str], Unbroken], name: str, megabytes: int
) -> None:
    works_or_says_why(world, name, wholes(name), more_memory(megabytes))


def limited(what: int, value: int) -> Callable[[], None]:
    """Return what sets a limit of a process."""
    return lambda: resource.setrlimit(what, (value, value))


def few_descriptors(more: int) -> Callable[[], None]:
    """Return what leaves so many descriptors to a process beside those that it has."""

    def limit() -> None:
        last = max(int(name) for name in os.listdir("/proc/self/fd"))
        for number in range(3, last + 1):  # those of the process that tests
            with contextlib.suppress(OSError):
                os.close(number)
        limited(resource.RLIMIT_NOFILE, 3 + more)()

    return limit


def more_memory(megabytes: int) -> Callable[[], None]:
    """Return what lets a process grow by so much and no further."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limited(resource.RLIMIT_AS, pages * resource.getpagesize() + megabytes * 2**20)()

    return limit


def drop_capabilities() -> None:
    """Make permissions count for root, too (capset of linux/capability.h, version 3)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, nothing) == 0
