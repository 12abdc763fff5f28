"""Commands side by side: what runs when, what a failure and a kill leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from speechssl.errors import UserError
from speechssl.sweep.grid import PlannedRun, plan, read_words
from speechssl.sweep.tasks import fill
from speechssl.sweep.work import Task, Workers, choose_jobs, last_line


class Queue:
    def __init__(self, count: int) -> None:
        runs = plan(*read_words([f"seed=0..{count - 1}"]))
        self.runs = deque(runs)
        self.errors: dict[str, str] = {}

    def take(self) -> PlannedRun | None:
        return self.runs.popleft() if self.runs else None

    def finished(self, run: PlannedRun, error: str) -> None:
        self.errors[run.name] = error


def shell(out: Path, *scripts: str):
    def tasks_of(run: PlannedRun, place: int) -> list[Task]:
        tasks = []
        for number, script in enumerate(scripts):
            mark = out / f"{run.name}.{number}"
            command = ["bash", "-c", script, "bash", run.name, str(place)]
            tasks.append(Task(f"task{number}-{run.name}", command, mark.exists, mark.touch))
        return tasks

    return tasks_of


def test_as_many_as_asked_for_are_at_work_and_each_has_a_place_of_its_own(tmp_path: Path) -> None:
    script = f'echo "$2 in" >> {tmp_path}/places; sleep 0.4; echo "$2 out" >> {tmp_path}/places'
    queue = Queue(4)
    Workers(tmp_path, 2, shell(tmp_path, script)).work(queue)
    assert queue.errors == {f"seed={number}": "" for number in range(4)}
    at_work: set[str] = set()
    most = 0
    for line in (tmp_path / "places").read_text().splitlines():
        place, what = line.split()
        if what == "in":
            assert place not in at_work
            at_work.add(place)
        else:
            at_work.remove(place)
        most = max(most, len(at_work))
    assert most == 2


def test_tasks_of_a_run_are_in_order_and_what_is_done_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "seed=0.0").touch()
    scripts = [f'echo "$1 {number}" >> {tmp_path}/ran' for number in range(2)]
    Workers(tmp_path, 1, shell(tmp_path, *scripts)).work(Queue(2))
    assert (tmp_path / "ran").read_text().splitlines() == ["seed=0 1", "seed=1 0", "seed=1 1"]
    stages = [line.split("\t")[0] for line in (tmp_path / "seconds.tsv").read_text().splitlines()]
    assert stages == ["task1-seed=0", "task0-seed=1", "task1-seed=1"]


def test_a_run_that_fails_is_told_in_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    script = '[[ $1 != seed=0 ]] || { printf "why:\\n\\033[1mno\\033[0m disk\\n" >&2; exit 3; }'
    queue = Queue(2)
    Workers(tmp_path, 1, shell(tmp_path, script, "true")).work(queue)
    assert queue.errors["seed=1"] == "" and not (tmp_path / "seed=0.1").exists()
    assert queue.errors["seed=0"].startswith("task0-seed=0 ended with code 3: ")
    assert "\x1b" not in queue.errors["seed=0"] and "disk" in queue.errors["seed=0"]
    assert last_line(tmp_path / "nothing").startswith("see ")


SWEEP = """
import sys; from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_work import Queue, shell
from speechssl import processes
from speechssl.sweep.work import Workers
out = Path(sys.argv[1])
script = f'trap "sleep 0.2; touch {out}/saved-$1; exit 0" TERM; touch {out}/began-$1; sleep 30 & wait'
with processes.raise_on_signals():
    Workers(out, 2, shell(out, script)).work(Queue(3))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_runs_are_asked_to_end_and_may_save(tmp_path: Path, name: str) -> None:
    import signal

    command = [sys.executable, "-c", SWEEP, str(tmp_path), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("began-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == [
        "saved-seed=0",
        "saved-seed=1",
    ]


def test_as_many_runs_as_cores_or_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechssl.threads.usable_cores", lambda root="/": 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_jobs(None, 100, 0) == 8 and choose_jobs(None, 3, 0) == 3
    assert choose_jobs(None, 100, 2) == 2 and choose_jobs(5, 100, 2) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose_jobs(None, 100, 0) == 2


def test_each_run_gets_its_share_of_the_cores(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("speechssl.threads.usable_cores", lambda root="/": 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = f"echo $OMP_NUM_THREADS > {tmp_path}/threads"
    Workers(tmp_path, 2, shell(tmp_path, script)).work(Queue(1))
    assert (tmp_path / "threads").read_text().strip() == "4"
    assert "OMP_NUM_THREADS" not in os.environ


def test_the_command_after_is_filled_in_word_by_word() -> None:
    values = {"run": "a b; rm", "name": "$(x)", "out": "o", "eval": "e", "device": "cpu"}
    assert fill("bash -c 'x \"$1\"' _ {run} {name}/{{y}}", values) == [
        "bash", "-c", 'x "$1"', "_", "a b; rm", "$(x)/{y}",
    ]  # fmt: skip
    for wrong in ("echo {nam}", "echo '", "", "echo {}", "echo {run.x}"):
        with pytest.raises(UserError, match="--after") as error:
            fill(wrong, values)
        assert "\n" not in str(error.value)


def test_a_program_that_is_not_there_ends_its_run_alone(tmp_path: Path) -> None:
    def tasks_of(run: PlannedRun, place: int) -> list[Task]:
        program = "true" if run.seed else str(tmp_path / "nowhere")
        return [Task(f"after-{run.name}", [program], lambda: False)]

    queue = Queue(2)
    Workers(tmp_path, 1, tasks_of).work(queue)
    assert "after-seed=0 cannot be started" in queue.errors["seed=0"]
    assert queue.errors["seed=1"] == ""
