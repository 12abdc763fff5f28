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


def test_the_command_waits_passively_and_a_users_word_wins():
    command = "from speechssl.cli import main; main(['list', 'encoders'])" + SHOW
    assert run(command).endswith("['passive', '0']")
    assert run(command, OMP_WAIT_POLICY="active").endswith("['active', None]")
    assert run(command, GOMP_SPINCOUNT="77").endswith("[None, '77']")


def test_too_late_is_left_alone():
    code = "import torch; from speechssl import threads; print(threads.wait_passively())"
    assert run(code) == "False"


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
