"""recipes/launch: ranks under Slurm (stand-ins for its commands), and on Ray, end in torchrun's bits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import ENVIRONMENT, ROOT, run_script
from test_voxceleb_ending import RUN, prepared, same_bits, words

__all__ = ["prepared"]

SBATCH = """#!/usr/bin/env bash
# Takes the options of sbatch, runs the script on one "node", and again while it asks to be queued again.
script=
while (($#)); do
    case $1 in
        --wait) shift ;;
        --ntasks-per-node) export SLURM_NTASKS_PER_NODE=$2 SLURM_NTASKS=$2; shift 2 ;;
        --*) shift 2 ;;
        *) script=$1; shift; break ;;
    esac
done
echo "$script" >>"$FAKE/submitted"
export SLURM_JOB_ID=1234 SLURM_JOB_NODELIST=node1 SLURM_RESTART_COUNT=0
while :; do
    rm -f "$FAKE/requeue"
    bash "$script" "$@" || exit
    [[ -e $FAKE/requeue ]] || exit 0
    SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
done
"""

SRUN = """#!/usr/bin/env python3
# Starts SLURM_NTASKS tasks. In the first job it signals them as Slurm does before the time is up, in the
# second one it kills a rank, and then the others (--kill-on-bad-exit). Ends with the highest code.
import os, signal, subprocess, sys, time
from pathlib import Path

command = [word for word in sys.argv[1:] if not word.startswith("--kill")]
job = int(os.environ["SLURM_RESTART_COUNT"])
tasks = []
for rank in range(int(os.environ["SLURM_NTASKS"])):
    own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
    tasks.append(subprocess.Popen(command, env={**os.environ, **own}))
log = Path(os.environ["FAKE_LOG"])
lines = lambda: len(log.read_text().splitlines()) if log.exists() else 0
if job < 2:
    start = lines()
    while lines() < start + 15 and all(task.poll() is None for task in tasks):
        time.sleep(0.02)
    if lines() < start + 15:  # they ended by themselves
        pass
    elif job == 0:
        for task in tasks:
            task.send_signal(signal.SIGUSR1)
    else:
        tasks[1].kill()
        tasks[1].wait()
        for task in tasks:
            task.kill()
codes = [task.wait() for task in tasks]
codes = [128 - code if code < 0 else code for code in codes]
with open(os.environ["FAKE"] + "/codes", "a") as file:
    file.write(f"{codes}\\n")
sys.exit(max(codes))
"""

SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) echo 127.0.0.1 ;;
    requeue) touch "$FAKE/requeue" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which sbatch, srun and scontrol are stand-ins."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        path = programs / name
        path.write_text(text.replace("/usr/bin/env python3", sys.executable))
        path.chmod(0o755)
    return {**ENVIRONMENT, "PATH": f"{programs}:{os.environ['PATH']}", "FAKE": str(tmp_path)}


@pytest.mark.slow
def test_a_job_of_slurm_saves_before_its_time_is_up_and_is_queued_again_to_the_same_bits(
    prepared: Path, slurm: dict[str, str]
) -> None:
    save = "train.save_every=10"
    whole = run_script(RUN, *words(prepared, "whole", save))
    assert whole.returncode == 0, whole.stderr[-3000:]
    log = prepared / "exp" / "dino" / "log.jsonl"
    done = subprocess.run(
        ["bash", str(ROOT / RUN), *map(str, words(prepared, "exp", "--launcher", "slurm", save))],
        env={**slurm, "FAKE_LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (prepared / "codes").read_text().splitlines() == ["[143, 143]", "[137, 137]", "[0, 0]"]
    assert (prepared / "submitted").read_text().endswith("recipes/launch/job.sbatch\n")
    assert same_bits(prepared / "whole" / "dino", prepared / "exp" / "dino")


def run_job(slurm: dict[str, str], ranks: str, *command: str) -> subprocess.CompletedProcess[str]:
    launch = ["bash", str(ROOT / "recipes/launch/slurm.sh"), "--per-node", ranks, "--"]
    nowhere = {**slurm, "FAKE_LOG": slurm["FAKE"] + "/none"}
    return subprocess.run(
        [*launch, *command], env=nowhere, capture_output=True, text=True, timeout=60
    )


def test_a_mistake_is_not_queued_again(slurm: dict[str, str]) -> None:
    done = run_job(slurm, "2", "bash", "-c", "exit 2")
    assert done.returncode == 2
    assert (Path(slurm["FAKE"]) / "codes").read_text() == "[2, 2]\n"


def test_ranks_are_numbered_and_know_their_first_node(slurm: dict[str, str]) -> None:
    show = 'echo "$RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT"'
    done = run_job(slurm, "2", "bash", "-c", show)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "0 2 0 2 127.0.0.1 21234",
        "1 2 1 2 127.0.0.1 21234",
    ]


def test_without_slurm_it_says_so(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, str(ROOT / "recipes/launch/slurm.sh"), "--", "true"],
        env={**ENVIRONMENT, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "there is no sbatch here" in done.stderr
    if shutil.which("sbatch") is None:
        done = run_script(RUN, "--launcher", "slurm", "--exp-dir", str(tmp_path / "exp"))
        assert done.returncode == 2 and "there is no sbatch here" in done.stderr


ON_RAY = [sys.executable, str(ROOT / "recipes/launch/on_ray.py"), "--processes", "2"]


@pytest.mark.slow
def test_a_rank_on_ray_that_is_killed_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    script = (
        f"import os, signal, time; mark = '{tmp_path}/lost'; rank = os.environ['RANK'];"
        f" open('{tmp_path}/started', 'a').write(rank);"
        " first = rank == '1' and not os.path.exists(mark);"
        " first and open(mark, 'w').close();"
        " first and os.kill(os.getpid(), signal.SIGKILL);"
        " time.sleep(2)"
    )
    done = subprocess.run(
        [*ON_RAY, "--", sys.executable, "-c", script],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted((tmp_path / "started").read_text()) == ["0", "0", "1", "1"]
    assert "restart 1" in done.stderr


@pytest.mark.slow
def test_on_ray_what_is_asked_to_end_saves_in_every_rank(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    script = (
        "import os, signal, sys, time; rank = os.environ['RANK'];"
        f" end = lambda *_: (open('{tmp_path}/saved-' + rank, 'w').close(), sys.exit(143));"
        " signal.signal(signal.SIGTERM, end);"
        f" open('{tmp_path}/started-' + rank, 'w').close(); time.sleep(100)"
    )
    command = [*ON_RAY, "--", sys.executable, "-c", script]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while len(list(tmp_path.glob("started-*"))) < 2 and process.poll() is None:
            time.sleep(0.1)
        process.terminate()
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 143, error[-3000:]
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


@pytest.mark.slow
def test_on_ray_mistakes_are_one_line() -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "RAY_ADDRESS"}
    for flags, said in (
        (["--address", "127.0.0.1:9"], "nobody answers there"),
        (["--gpus", "1000"], "this machine has"),
    ):
        done = subprocess.run(
            [*ON_RAY, *flags, "--", "true"],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2 and said in done.stderr, done.stderr[-3000:]
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_training_on_ray_ends_in_the_bits_of_torchrun(prepared: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    assert run_script(RUN, *words(prepared, "whole")).returncode == 0
    done = run_script(RUN, *words(prepared, "exp", "--launcher", "ray"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert same_bits(prepared / "whole" / "dino", prepared / "exp" / "dino")


def test_rounds_start_their_processes_by_the_words_of_launch(tmp_path: Path) -> None:
    from speechssl.pseudolabel.rounds import Rounds
    from speechssl.pseudolabel.settings import PseudoLabelSettings

    rounds = Rounds.__new__(Rounds)
    base = {"start": "m", "data": ("d",), "train": "t.yaml", "clusterer": {"name": "kmeans"}}
    mark = tmp_path / "words"
    write = f"import json, sys; open({str(mark)!r}, 'w').write(json.dumps(sys.argv[1:]))"
    launch = [sys.executable, "-c", write, "--"]
    rounds.settings = PseudoLabelSettings(**base, launch=launch, precision="float32")
    rounds.device = "cpu"
    rounds.quiet = True
    rounds.embed(1, "model", ["d"], tmp_path / "e.npz")
    said = json.loads(mark.read_text())
    assert said[0] == "--" and said[2:7] == ["-m", "speechssl", "embed", "model", "d"]
    assert "--resume" in said
