"""Cores that a process may use, and passive waiting: kernels' files, and real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechssl import threads


def kernel(root: Path, group: str, files: dict[str, str]) -> Path:
    """A root whose process is in `group` (a line of /proc/self/cgroup), with these files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        ("0::/../..\n", {"cpu.max": "300000 100000"}, 3.0),
        (
            "3:cpu,cpuacct:/docker/x\n1:memory:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "\x00garbage nan"}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        ("garbage", {}, None),
    ],
)
def test_the_quota_is_the_tightest_of_the_groups(tmp_path, group, files, cores):
    assert threads.cgroup_quota(kernel(tmp_path, group, files)) == cores


def test_no_control_groups_no_quota(tmp_path):
    assert threads.cgroup_quota(tmp_path) is None
    assert threads.usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_a_fraction_of_a_core_is_one(tmp_path):
    root = kernel(tmp_path, "0::/\n", {"cpu.max": "20000 100000"})
    assert threads.usable_cores(root) == 1


def run(code: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in (*threads.WAITING, "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


SHOW = "; import os; print([os.environ.get(n) for n in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')])"


def test_importing_the_package_sets_nothing():
    assert run("import speechssl" + SHOW) == "[None, None]"


def test_the_command_never_spins_for_long_and_a_users_word_wins():
    command = "from speechssl.cli import main; main(['list', 'encoders'])" + SHOW
    chosen = run(command).splitlines()[-1]
    assert chosen in ("['passive', '0']", f"['passive', '{threads.SHORT_SPIN}']")
    assert run(command, OMP_WAIT_POLICY="active").endswith("['active', None]")
    assert run(command, GOMP_SPINCOUNT="77").endswith("[None, '77']")


def machine(root: Path, runnable: str) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/loadavg").write_text(runnable)
    return root


def test_beside_other_work_threads_sleep_and_alone_they_spin_shortly(tmp_path, monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    alone = machine(tmp_path / "alone", "0.00 0.00 0.00 1/91 14601\n")
    beside = machine(tmp_path / "beside", "9.99 0.88 1.54 2/91 14601\n")
    assert not threads.cores_are_shared(alone)
    assert threads.cores_are_shared(beside)
    # A process that may use a part of the cores leaves the others to other work.
    monkeypatch.setattr(os, "cpu_count", lambda: cores + 1)
    assert not threads.cores_are_shared(beside)


@pytest.mark.parametrize("text", [None, "", "0.1 0.1 0.1", "a b c d e", "0 0 0 x/y 1"])
def test_where_the_kernel_does_not_tell_threads_sleep(tmp_path, text):
    root = tmp_path if text is None else machine(tmp_path, text)
    assert threads.cores_are_shared(root)


def test_a_moment_of_other_work_is_not_other_work(tmp_path, monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    seen = iter([4, 1, 3, 1, 1])
    monkeypatch.setattr(threads, "_runnable", lambda _root: next(seen))
    assert not threads.cores_are_shared(tmp_path)


def test_a_real_loop_beside_it_is_seen():
    """As many busy loops as the machine has cores: the command's threads sleep."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        said = run("from speechssl import threads; print(threads.choose_waiting())" + SHOW)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert said == "sleep\n['passive', '0']"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}, "sleep"),
        ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}, "a short spin, then sleep"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "sleep"),
        ({"OMP_WAIT_POLICY": "active"}, "spinning"),
        ({}, "spinning"),
    ],
)
def test_the_line_says_how_threads_wait(monkeypatch, environment, words):
    for name in threads.WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert threads.describe(2).endswith(f"they wait by {words})")


def test_too_late_is_left_alone():
    code = "import torch; from speechssl import threads; print(threads.choose_waiting())"
    assert run(code) == "None"


def test_affinity_counts():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code += "; from speechssl import threads; print(threads.choose())"
    assert run(code) == "1"


def test_the_users_number_of_threads_wins_and_processes_share():
    code = "from speechssl import threads; print(threads.choose(), threads.choose(5))"
    assert run(code, OMP_NUM_THREADS="3") == "3 5"
    assert threads.choose("auto", processes=10**6) == 1


def quota_of_one_core(root: Path) -> Path:
    return kernel(root, "0::/\n", {"cpu.max": "100000 100000\n"})


def test_every_library_of_the_command_keeps_to_the_quota(tmp_path):
    root = quota_of_one_core(tmp_path)
    code = f"""
import os
from speechssl import threads
os.sched_getaffinity = lambda _process: set(range(64))  # a large host
print(threads.respect_quota({str(root)!r}), end=" ")
import numpy, torch, threadpoolctl
numpy.ones((2, 2)) @ numpy.ones((2, 2))
print(torch.get_num_threads(), max(p["num_threads"] for p in threadpoolctl.threadpool_info()))
"""
    assert run(code) == "1 1 1"
    assert run(code, OMP_NUM_THREADS="2") == "None 2 2"


def test_the_quota_is_shared_among_processes_as_affinity_is(tmp_path):
    root = kernel(tmp_path, "0::/\n", {"cpu.max": "800000 100000\n"})
    code = f"""
import os
from speechssl import threads
os.sched_getaffinity = lambda _process: set(range(64))
real = threads.cgroup_quota
threads.cgroup_quota = lambda root="/": real({str(root)!r})
print(threads.respect_quota(), threads.choose(), threads.choose(processes=4))
"""
    assert run(code) == "8 8 2"


def test_without_a_quota_nothing_is_set(tmp_path):
    code = (
        f"import os; from speechssl import threads; print(threads.respect_quota({str(tmp_path)!r}))"
    )
    assert run(code + SHOW) == "None\n[None, None]"
