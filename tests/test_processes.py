"""Locks, workers and signals, with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speechssl import locks, processes
from speechssl.errors import UserError

HOLD = """
import sys, time
from speechssl.locks import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(output: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_second_writer_is_refused_until_the_first_is_dead(tmp_path, kind):
    output = tmp_path / "out"
    if kind == "folder":
        output.mkdir()
    first = holder(output)
    with (
        pytest.raises(UserError, match=f"process {first.pid}\\) is writing it"),
        locks.sole_writer(output),
    ):
        pass
    first.kill()
    first.wait()
    with locks.sole_writer(output):
        pass
    left = [path.name for path in tmp_path.rglob("*") if path != output]
    assert left == []


def test_the_lock_is_released_when_the_body_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locks.sole_writer(tmp_path / "a.npz"):
            _ = 1 / 0


def test_ten_processes_one_writer(tmp_path):
    code = """
import sys, time
from speechssl.errors import UserError
from speechssl.locks import sole_writer
done = 0
while done < 20:
    try:
        with sole_writer(sys.argv[1]):
            path = sys.argv[1] + ".count"
            count = int(open(path).read())
            time.sleep(0.001)
            open(path, "w").write(str(count + 1))
            done += 1
    except UserError:
        time.sleep(0.002)
"""
    (tmp_path / "out.count").write_text("0")
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")]) for _ in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert (tmp_path / "out.count").read_text() == "80"


PARENT = """
import multiprocessing, multiprocessing.util, os, sys, time
from speechssl.processes import end_with_parent
def work(pids):
    end_with_parent()
    multiprocessing.util.get_temp_dir()
    pids.send(os.getpid())
    while True:
        time.sleep(0.05)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,), daemon=True)
    process.start()
    print(ours.recv(), flush=True)
    if sys.argv[2] == "terminates":
        process.terminate()
        process.join()
        print("ended", flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
@pytest.mark.parametrize("how", ["is killed", "terminates"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_worker_ends_with_its_parent_and_leaves_nothing(tmp_path, start, how):
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(processes.__file__).parents[1]),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", start, how],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    worker = int(parent.stdout.readline())
    if how == "terminates":
        assert parent.stdout.readline() == "ended\n"
    else:
        assert alive(worker)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_sigterm_cleans_up_on_the_way_out(tmp_path):
    code = """
import sys, time
from speechssl import locks, processes
from speechssl.files import atomic_write
with processes.raise_on_signals(ends_process=True) as arrived:
    try:
        with atomic_write(sys.argv[1]) as path:
            path.write_text("half")
            print("writing", flush=True)
            time.sleep(60)
    except processes.Terminated:
        sys.exit(arrived.code)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out.txt")], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.terminate()
    assert process.wait(20) == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_loop_is_asked_to_stop_and_the_handlers_return(number):
    before = signal.getsignal(number)
    with processes.stop_request() as request:
        assert request.signal is None
        signal.raise_signal(number)
        assert request.signal == number
    assert signal.getsignal(number) is before
