"""Threads and cores: how many this process may use, and how its threads wait for each other.

The threads of OpenMP wait for each other by spinning. Whenever one of them is off its core, because
other work runs there, the others burn their slices: beside one low-priority process a training on
two cores ran at a tenth of its speed. ``choose_waiting`` lets them sleep instead: at once where
other work wants the cores, after a few microseconds where it does not (egs/bench/README.md has the
measurements). It must be called before torch is imported, and the command line does so; ``import
speechssl`` alone changes nothing.

The load of the machine does not lower the number of threads: beside one low-priority process on two
cores, two threads that sleep were as fast as one thread or faster.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What says how the threads of GNU's, and of Intel's and LLVM's, OpenMP wait."""

SHORT_SPIN = "1000"
"""Turns of GNU's waiting loop, some 10 microseconds: most waits of a training step are shorter."""

_SAMPLES = 5
_BETWEEN_SAMPLES = 0.004  # seconds


def choose_waiting(root: str | Path = "/") -> str | None:
    """Let this process and its children wait without long spins, unless the user has said how.

    Returns:
        ``sleep`` beside other work, ``short spin`` on an idle machine; None if one of the variables
        of ``WAITING`` was set already, or torch is already imported, after which setting them has
        no effect.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return None
    shared = cores_are_shared(root)
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ["GOMP_SPINCOUNT"] = "0" if shared else SHORT_SPIN
    os.environ["KMP_BLOCKTIME"] = "0"
    return "sleep" if shared else "short spin"


def cores_are_shared(root: str | Path = "/") -> bool:
    """Return whether other work now wants cores that this process would use.

    It looks a few times within some 20 milliseconds, because what runs for a moment does not
    matter. Where the kernel does not tell, the answer is True: the safe one.
    """
    samples = []
    for _ in range(_SAMPLES):
        running = _runnable(Path(root))
        if running is None:
            return True
        samples.append(running - 1)  # this process
        time.sleep(_BETWEEN_SAMPLES)
    others = statistics.median_low(samples)
    return others + usable_cores(root) > (os.cpu_count() or 1)


def _runnable(root: Path) -> int | None:
    """Return how many processes and threads run or wait for a core, this one included."""
    fields = _text(root / "proc/loadavg").split()
    try:
        return int(fields[3].split("/")[0])  # "0.21 0.88 1.54 4/91 14601"
    except (IndexError, ValueError):
        return None


_THREADS = "OMP_NUM_THREADS"

_set_here: str | None = None
"""What ``respect_quota`` put into OMP_NUM_THREADS: not a user's word."""


def respect_quota(root: str | Path = "/") -> int | None:
    """Let every library of this process compute with no more threads than its quota has cores.

    OpenMP, BLAS and torch look at the affinity by themselves, but start 64 threads in a container
    that may use two of a host's 64 cores. They all read OMP_NUM_THREADS when they are loaded.

    Returns:
        The number set; None where there is no tighter quota, the user has set a number, or torch is
        already imported.
    """
    global _set_here
    if "torch" in sys.modules or _THREADS in os.environ:
        return None
    cores = usable_cores(root)
    if cores >= _cores_of_affinity():
        return None
    _set_here = str(cores)
    os.environ[_THREADS] = _set_here
    return cores


def usable_cores(root: str | Path = "/") -> int:
    """Return the number of cores that this process may use: affinity, bounded by the cgroup's quota.

    Args:
        root: where ``proc`` and ``sys`` are mounted.
    """
    cores = _cores_of_affinity()
    quota = cgroup_quota(root)
    if quota is not None:
        cores = min(cores, max(1, round(quota)))
    return cores


def _cores_of_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(root: str | Path = "/") -> float | None:
    """Return the cores that the control group of this process may use, or None without a limit.

    Version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``) are read; of nested groups the
    tightest counts. What cannot be read or understood limits nothing.
    """
    root = Path(root)
    quotas = []
    for folder in _cgroup_folders(root):
        quota = _quota_of(folder)
        if quota is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def _cgroup_folders(root: Path) -> list[Path]:
    """Folders of this process's groups and of all groups above them."""
    folders = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        controllers = fields[1]
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            if not mount.is_dir():
                mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        # In a container the path is often not visible: the limit is then at the mount itself.
        group = Path(*[name for name in fields[2].split("/") if name not in ("", "..", ".")])
        folders += [mount / group, *(mount / above for above in group.parents)]
    return folders


def _quota_of(folder: Path) -> float | None:
    """Cores of one group: quota over period; None where there is no limit or no sense in it."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    try:
        quota = float(words[0])
        period = float(words[1])
    except (IndexError, ValueError):
        return None
    if not (quota > 0 and period > 0):
        return None
    return quota / period


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def choose(requested: int | str = "auto", processes: int = 1) -> int:
    """Return how many threads each of ``processes`` processes on this machine should compute with.

    Args:
        requested: a number, or ``auto``: the user's ``OMP_NUM_THREADS`` where it is set, else the
            usable cores shared out among the processes.
        processes: of this command on this machine.
    """
    if requested != "auto":
        return int(requested)
    wanted = os.environ.get(_THREADS, "")
    first = wanted.split(",")[0]
    if wanted != _set_here and first.isdigit() and int(first) > 0:
        return int(first)
    return max(1, usable_cores() // max(1, processes))


def describe(threads: int) -> str:
    """Return one line that says what was chosen and from what."""
    total = os.cpu_count() or 1
    quota = cgroup_quota()
    found = f"{usable_cores()} of {total} cores usable"
    if quota is not None:
        found += f", quota of {quota:g}"
    if hasattr(os, "getloadavg"):
        found += f", load {os.getloadavg()[0]:.1f}"
    return f"threads: {threads} ({found}; they wait by {_waiting()})"


def _waiting() -> str:
    """Return in a few words how the threads wait, as the environment says."""
    spins = os.environ.get("GOMP_SPINCOUNT")
    if spins == SHORT_SPIN:
        return "a short spin, then sleep"
    if spins == "0" or (
        spins is None and os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    ):
        return "sleep"
    return "spinning"
