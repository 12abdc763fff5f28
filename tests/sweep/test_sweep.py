"""Whole small sweeps by the real command: the table, a kill, what is refused before anything runs."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from builders import ECAPA

from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.sweep import sweep
from speechssl.sweep.grid import plan, read_words
from speechssl.sweep.measures import better, figures_of_log, measure, needs_labels
from speechssl.sweep.search import Search, Span, read_space
from speechssl.sweep.tasks import SweepSettings


@pytest.fixture
def config(voices: Path, tmp_path: Path) -> Path:
    settings = {
        "data": {
            "train": [str(voices / "train")],
            "crops": [{"count": 2, "seconds": 0.5}],
            "workers": 0,
        },
        "features": {"n_mels": 24},
        "augment": {"simulate_prob": 0.0, "rir_prob": 0.0},
        "encoder": ECAPA,
        "method": {"name": "simsiam", "hidden": 8, "projection": 8},
        "train": {
            "steps": 4, "batch_size": 8, "precision": "float32", "log_every": 1,
            "save_every": 2, "trackers": [],
        },
        "monitor": {"every": 2},
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def command(config: Path, out: Path, *words: object) -> list[str]:
    call = [sys.executable, "-m", "speechssl", "sweep", str(config), "--out", str(out)]
    return [*call, "--device", "cpu", *map(str, words)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_run(out: Path, name: str, **figures: float) -> None:
    """A run that has ended with these figures in its log."""
    folder = RunFolder(out / "runs" / name)
    folder.model.path.mkdir(parents=True)
    folder.model.config.touch()
    folder.model.weights.touch()
    folder.log.write_text(json.dumps({"step": 1, **figures}) + "\n")


def test_figures_are_the_last_ones_and_evaluations_have_their_list(tmp_path: Path) -> None:
    write_run(tmp_path, "a", loss=3.0, uniformity=-1.0)
    log = RunFolder(tmp_path / "runs" / "a").log
    with log.open("a") as file:
        file.write('{"step": 2, "loss": 2.0, "alarms": ["x"], "lr": 1}\n{"step": 3, "loss": 1.5}\n')
    results = tmp_path / "eval" / "a" / "trials1" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text('{"eer": 12.5, "min_dcf_0.01": 0.9, "trials": 100, "model": "<b>"}')
    assert measure(tmp_path, "a") == {
        "uniformity": -1.0, "loss": 1.5, "alarms": 1.0,
        "trials1/eer": 12.5, "trials1/min_dcf_0.01": 0.9,
    }  # fmt: skip
    results.write_text("no JSON")
    assert "trials1/eer" not in measure(tmp_path, "a")
    assert figures_of_log(tmp_path / "nothing") == {}
    assert needs_labels("trials1/eer") and not needs_labels("uniformity")
    known = ("trials1/eer", "uniformity", "effective_rank", "x/uar", "nonsense")
    assert [better(name) for name in known] == ["lower", "lower", "higher", "higher", None]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"words": ["methd=a,b"]}, "unknown section 'methd'"),
        ({"words": ["data.train=[nowhere]"]}, "nowhere: no such directory"),
        ({"words": ["method=simsiam,dinno"]}, "no 'dinno'"),
        ({"reference": "method=x", "words": ["method=simsiam,dino"]}, "no setting 'method=x'"),
        ({"evaluate": [Path("nowhere")]}, "has no file `trials`"),
        ({"after": "echo {nam}"}, "--after"),
        ({"after": "ecko {name}"}, "no program 'ecko'"),
        ({"optuna": 2, "objective": "speed", "words": ["seed=0"]}, "whether lower or higher"),
        ({"optuna": 2, "objective": "a/eer", "words": ["seed=0"]}, "name them with --evaluate"),
        ({"optuna": 2, "words": ["seed=0"]}, "nothing to choose"),
        ({"optuna": 2, "words": ["optimizer.lr=1e-2..1e-3"]}, "give LOW..HIGH"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(config, tmp_path, more, message) -> None:
    if more.get("optuna"):
        pytest.importorskip("optuna", reason="needs the extra sweep")
    settings = {
        "config": str(config),
        "words": [],
        "out": tmp_path / "out",
        "device": "cpu",
        **more,
    }
    with pytest.raises(UserError, match=message) as error:
        sweep.sweep(SweepSettings(**settings))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "runs").exists()


def test_spans_are_told_from_lists_and_paths() -> None:
    words = ["optimizer.lr=1e-4..1e-2:log", "width=8..64", "m=0.9..0.99", "seed=0..2", "d=../x"]
    others, spans = read_space(words)
    assert others == ["seed=0..2", "d=../x"]
    assert (spans["optimizer.lr"].log, spans["optimizer.lr"].whole) == (True, False)
    assert (spans["width"].log, spans["width"].whole) == (False, True)
    assert (spans["m"].low, spans["m"].high) == (0.9, 0.99)


def test_optuna_finds_the_best_and_continues_a_search_that_was_cut_off(tmp_path, monkeypatch):
    """Trainings are left out: the objective is a known function of the setting."""
    pytest.importorskip("optuna", reason="needs the extra sweep")
    worked: list[str] = []

    class Pretended:
        def __init__(self, out, jobs, tasks_of):
            self.out = out

        def work(self, source):
            while (run := source.take()) is not None:
                if len(worked) == 7 and not (self.out / "again").exists():
                    raise KeyboardInterrupt
                values = dict(word.split("=") for word in run.overrides)
                loss = (
                    (float(values["x"]) - 3) ** 2 + 5 * (values["y"] == "a") + int(values["seed"])
                )
                if not (self.out / "runs" / run.name).exists():
                    worked.append(run.name)
                    write_run(self.out, run.name, uniformity=loss)
                source.finished(run, "")

    monkeypatch.setattr(sweep, "Workers", Pretended)
    out = tmp_path / "out"
    words = ["x=0.0..10.0", "y=a,b", "seed=0,1"]
    settings = SweepSettings(config="", words=words, out=out, optuna=25, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(settings)
    (out / "again").touch()
    text, failed = sweep.sweep(settings)
    assert failed == 0 and len(set(worked)) == 2 * 25 and len(worked) == 50
    best = text.split("Best by uniformity (")[1].split("): ")[1].splitlines()[0]
    assert "y=b" in best and abs(float(best.split("x=")[1].split(",")[0]) - 3) < 1.5
    assert "Labels used: none." in text
    worked.clear()
    assert sweep.sweep(settings)[0] == text and worked == []  # nothing is left to do
    other = SweepSettings(
        config="", words=["x=0.0..9.0", "y=a,b"], out=out, optuna=25, device="cpu"
    )
    with pytest.raises(UserError, match="holds a search over other settings"):
        sweep.sweep(other)


def test_a_trial_that_a_kill_cut_off_while_it_was_chosen_does_not_end_the_search(tmp_path):
    pytest.importorskip("optuna", reason="needs the extra sweep")

    def search() -> Search:
        return Search(
            tmp_path,
            2,
            {"x": Span(0.0, 1.0, False, False)},
            {},
            [],
            "minimize",
            lambda name: 1.0,
            lambda run, error: None,
        )

    search().study.ask()  # a trial without values, as a kill leaves one
    again = search()
    taken = [again.take() for _ in range(3)]
    assert [run is None for run in taken] == [False, False, True]


def test_a_run_is_begun_when_the_training_of_a_killed_sweep_has_saved(tmp_path) -> None:
    hold = (
        "import sys, time; from speechssl.locks import sole_writer\n"
        "with sole_writer(sys.argv[1]): print(flush=True); time.sleep(1)"
    )
    call = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(call, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        sweep.wait_for_writer(tmp_path, seconds=0.3)
        assert 0.3 <= time.monotonic() - began < 0.9  # it does not wait for ever
        sweep.wait_for_writer(tmp_path)
        assert process.wait(timeout=0.5) == 0
    sweep.wait_for_writer(tmp_path / "nothing there")


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_kill_and_ends_in_the_table(config, voices, tmp_path) -> None:
    out = tmp_path / "out"
    words = ["method.projection=8,12", "seed=0..1", "train.steps=40", "--evaluate", voices / "eval"]
    after = "bash -c 'echo $1 >> \"$2\"' _ {name} {out}/after.txt"
    call = command(config, out, *words, "--jobs", 2, "--after", after)
    process = subprocess.Popen(call, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [run.name for run in plan(*read_words([str(word) for word in words[:2]]))]
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(names)
    for name in names:
        steps = [json.loads(line)["step"] for line in RunFolder(out / "runs" / name).log.open()]
        assert steps == list(range(1, 41))  # a run that was cut off was resumed
    assert sorted((out / "after.txt").read_text().split()) == sorted(names)
    runs = rows(out / "runs.tsv")
    assert [row["run"] for row in runs] == names
    for row in runs:
        results = json.loads((out / "eval" / row["run"] / "eval" / "results.json").read_text())
        assert float(row["eval/eer"]) == pytest.approx(results["eer"], rel=1e-5)
    assert "Labels used: the trials of the evaluation" in done.stdout
    # The run is the one that `speechssl train` makes.
    from speechssl.train.loop import train

    overrides = ["method.projection=8", "seed=1", "train.steps=40"]
    alone = train(str(config), overrides, out=tmp_path / "alone", device="cpu")
    line = RunFolder(alone).log.read_text().splitlines()[-1]
    expected = {k: v for k, v in json.loads(line).items() if k in ("step", "loss", "uniformity")}
    last = RunFolder(out / "runs" / "projection=8,seed=1").log.read_text().splitlines()[-1]
    assert {k: json.loads(last)[k] for k in expected} == pytest.approx(expected)
    # Nothing is done twice, and another configuration is refused.
    before = (out / "seconds.tsv").read_bytes()
    again = subprocess.run(call, capture_output=True, text=True)
    assert again.returncode == 0 and (out / "seconds.tsv").read_bytes() == before
    changed = subprocess.run([*call, "optimizer.lr=0.5"], capture_output=True, text=True)
    assert changed.returncode == 2 and "optimizer.lr" in changed.stderr


@pytest.mark.slow
def test_a_run_that_fails_is_listed_and_the_others_are_compared(config, tmp_path) -> None:
    out = tmp_path / "out"
    words = ["optimizer.lr=1e-3,1e30", "train.steps=6", "--jobs", 2]
    done = subprocess.run(command(config, out, *words), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "not finite" in (out / "failed.tsv").read_text()
    assert "1 run failed" in done.stderr and "Failed: lr=1e30" in done.stdout
    assert [row["run"] for row in rows(out / "runs.tsv") if row["loss"]] == ["lr=1e-3"]
