"""Held-out utterances while a model trains: figures that are shown, and change nothing."""

import io
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import yaml
from builders import noise, write_audio, write_table

import speechssl
from speechssl import config, metrics
from speechssl.data.manifest import read_manifest
from speechssl.data.trials import read_trials, write_trials
from speechssl.diagnostics.effective_rank import effective_rank
from speechssl.errors import UserError
from speechssl.evaluation.verification.verify import evaluate
from speechssl.files import RunFolder
from speechssl.model import Model
from speechssl.train.heldout import read_heldout
from speechssl.train.loop import train
from speechssl.train.settings import resolve
from speechssl.weights import read_checkpoint

DIAGNOSTICS = {"heldout_effective_rank", "heldout_uniformity", "heldout_centre_norm"}
CLOCK = {"utterances_per_second", "data_wait", "heldout_seconds"}


def run(configuration, out, *overrides, **options):
    return train(str(configuration), overrides, out=out, device="cpu", **options)


def log(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def state(out):
    return read_checkpoint(RunFolder(out).last)


@pytest.fixture(scope="module")
def heldout(voices):
    """Overrides that measure on generated voices and their trials."""
    return [
        f"heldout.data={voices / 'eval'}",
        f"heldout.trials={voices / 'eval' / 'trials'}",
        "heldout.every=3",
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of one configuration, made once."""
    return {}


@pytest.fixture
def measured(runs, configuration, heldout, tmp_path_factory):
    """A run of 8 steps, measured at steps 0, 3, 6 and 8; a line is logged every second step."""
    if "measured" not in runs:
        out = tmp_path_factory.mktemp("measured") / "run"
        runs["measured"] = run(configuration, out, "train.log_every=2", *heldout)
    return runs["measured"]


def test_a_run_that_is_measured_ends_in_the_same_bits_as_one_that_is_not(
    measured, configuration, tmp_path
):
    plain = run(configuration, tmp_path / "run", "train.log_every=2")
    assert equal(state(plain), state(measured))  # weights, statistics, optimiser, random numbers
    shown = [
        {key: value for key, value in line.items() if not key.startswith("heldout")}
        for line in log(measured)
        if line["step"] % 2 == 0 and line["step"] > 0
    ]
    assert shown == log(plain)


def test_it_is_measured_every_so_many_steps_before_the_first_and_after_the_last(measured):
    lines = log(measured)
    assert [line["step"] for line in lines] == [0, 2, 3, 4, 6, 8]
    assert [line["step"] for line in lines if "heldout_eer" in line] == [0, 3, 6, 8]
    assert all(line.keys() >= DIAGNOSTICS for line in lines if "heldout_eer" in line)
    assert "loss" not in lines[2] and "loss" in lines[4]


@pytest.mark.parametrize(("step", "folder"), [(0, "untrained"), (8, "model")])
def test_the_figures_are_those_that_embedding_and_evaluating_the_model_give(
    measured, voices, step, folder
):
    embedder = speechssl.load(measured / folder, device="cpu")
    utterances = read_manifest(voices / "eval").utterances
    matrix = np.stack([embedder.embed(one.path) for one in utterances])
    ids = np.array([one.id for one in utterances])
    line = next(line for line in log(measured) if line["step"] == step)
    results = evaluate((ids, matrix), read_trials(voices / "eval" / "trials"), replicates=0)
    assert line["heldout_eer"] == pytest.approx(results["eer"], rel=1e-4)
    rank = effective_rank(torch.from_numpy(matrix))
    assert line["heldout_effective_rank"] == pytest.approx(rank, rel=1e-3)


def test_without_trials_no_label_is_needed_and_the_same_figures_are_shown(
    measured, configuration, voices, tmp_path
):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(voices / "eval" / "wav.scp", bare)
    (bare / "utt2spk").write_bytes(b"\xff\xfe no labels\n\n")
    overrides = ["train.steps=2", "train.log_every=2"]
    out = run(configuration, tmp_path / "run", *overrides, f"heldout.data={bare}")
    first, last = log(out)
    assert "heldout_eer" not in first and first.keys() & last.keys() >= DIAGNOSTICS
    before = log(measured)[0]
    assert {key: before[key] for key in first} == first
    about = config.read(out / "about.yaml")
    assert "trials_looked_at" not in about and "trials" not in about["heldout"]


def test_what_was_looked_at_is_written_down(measured, voices, configuration, tmp_path):
    digest = read_trials(voices / "eval" / "trials").sha256()
    about = config.read(measured / "about.yaml")
    assert about["labels_used"] == "none"  # nothing was decided by them
    assert about["trials_looked_at"] == [digest] == [about["heldout"]["trials_sha256"]]
    assert "looked at" in about["heldout"]["labels"]
    assert Model.load(measured / "model").about["trials_looked_at"] == [digest]
    start = [f"train.init={measured}", "train.steps=1"]
    later = run(configuration, tmp_path / "later", *start)
    assert config.read(later / "about.yaml")["trials_looked_at"] == [digest]


@pytest.mark.parametrize("looked_at", [True, False])
def test_reports_mark_results_on_a_list_that_was_looked_at(
    measured, voices, tmp_path, capsys, looked_at
):
    """In whichever format it is written, and no other list; not those of another model either."""
    from speechssl.cli import main
    from speechssl.report.page.clips import Clips
    from speechssl.report.page.material import Material, PageSettings, Run, SystemEvaluation
    from speechssl.report.page.sections import errors
    from speechssl.report.results import read_evaluations

    trials = read_trials(voices / "eval" / "trials")
    listed = tmp_path / "trials"
    write_trials(trials, listed, style="voxceleb")
    if not looked_at:
        listed.write_text("".join(listed.read_text().splitlines(keepends=True)[1:]))
    exp = tmp_path / "exp"
    model = str(measured / "model")
    embeddings = tmp_path / "eval.npz"
    assert main(["embed", model, str(voices / "eval"), "--out", str(embeddings)]) == 0
    words = ["evaluate", "verification", str(embeddings), "--trials", str(listed), "--model", model]
    assert main([*words, "--out", str(exp / "eval" / "dino" / "voices"), "--replicates", "0"]) == 0
    assert main(["report", str(exp), "--record"]) == 0
    (row,) = json.loads((exp / "record.json").read_text())
    said = "these trials, looked at during training"
    assert row["labels_used"] == (said if looked_at else "none")
    assert (said in capsys.readouterr().out) == looked_at

    (found,) = read_evaluations(exp)
    run_of_page = Run("dino", {}, config.read(measured / "about.yaml"), [])
    material = Material(["exp"], PageSettings(), Clips({}, 0), runs=[run_of_page])
    material.evaluations = [SystemEvaluation("dino", found, None, None)]
    texts = [block.text for block in errors.build(material) if hasattr(block, "text")]
    assert any("voices was looked at during training" in text for text in texts) == looked_at


def test_a_run_that_was_stopped_goes_on_with_the_same_measurements(
    measured, configuration, heldout, tmp_path, monkeypatch
):
    from speechssl.train import saving

    real = saving.save_last

    def stop_after_four(run, folder):
        real(run, folder)
        if run.step == 4:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    overrides = ["train.log_every=2", *heldout]
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_last", stop_after_four)
        with pytest.raises(KeyboardInterrupt):
            run(configuration, out, *overrides)
    assert [line["step"] for line in log(out)] == [0, 2, 3, 4]
    run(configuration, out, *overrides, resume=True)
    assert log(out) == log(measured)
    assert equal(state(out), state(measured))


@pytest.mark.parametrize("change", ["list", "directory", "setting"])
def test_a_run_is_not_resumed_on_other_heldout_data(configuration, voices, tmp_path, change):
    data = tmp_path / "eval"
    data.mkdir()
    for name in ("wav.scp", "trials"):
        shutil.copy(voices / "eval" / name, data)
    overrides = ["train.steps=2", f"heldout.data={data}", f"heldout.trials={data / 'trials'}"]
    out = run(configuration, tmp_path / "run", *overrides)
    name = {"list": "trials", "directory": "wav.scp"}.get(change)
    if name:
        lines = (data / name).read_text().splitlines(keepends=True)
        (data / name).write_text("".join(lines[:-1]))
    else:
        overrides.append("heldout.every=7")
    with pytest.raises(UserError, match=r"heldout\.\w+ (are not what they were|was)"):
        run(configuration, out, *overrides, resume=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["heldout.data=/nowhere"], "heldout.data: /nowhere: no such directory"),
        (["heldout.data={eval}", "heldout.trials=/nowhere"], "heldout.trials: .*/nowhere"),
        (["heldout.data={eval}", "heldout.trials={eval}/wav.scp"], "heldout.trials: .* is not a trial"),
        (["heldout.data={eval}", "heldout.trials={strange}"], "heldout.trials: .* without an embedding"),
        (["heldout.data={eval}", "heldout.trials={targets}"], "same and of different speakers"),
        (["heldout.trials=/nowhere"], "heldout.trials needs heldout.data"),
        (["heldout.every=0"], "heldout.every must be above 0"),
        (["heldout.utterances=1"], "heldout.utterances must be at least 2"),
        (["heldout.max_seconds=-1"], "heldout.max_seconds must be above 0"),
        (["heldout.trails=x"], "heldout.trails.*'trials'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_training_begins(
    configuration, voices, tmp_path, overrides, message
):
    names = [one.id for one in read_manifest(voices / "eval").utterances]
    (tmp_path / "strange").write_text("a b target\na c nontarget\n")
    (tmp_path / "targets").write_text(f"{names[0]} {names[1]} target\n")
    places = {
        "eval": voices / "eval",
        "strange": tmp_path / "strange",
        "targets": tmp_path / "targets",
    }
    words = [override.format(**places) for override in overrides]
    with pytest.raises(UserError, match=message) as error:
        run(configuration, tmp_path / "run", *words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_embedded_is_left_out_and_said_once(configuration, voices, tmp_path):
    paths = {one.id: one.path for one in read_manifest(voices / "eval").utterances}
    broken, silent = sorted(paths)[:2]
    data = tmp_path / "eval"
    data.mkdir()
    whole = write_audio(tmp_path / "whole.flac", noise(1.0)).read_bytes()
    (tmp_path / "broken.flac").write_bytes(whole[: len(whole) // 2])
    paths[broken] = tmp_path / "broken.flac"
    paths[silent] = write_audio(tmp_path / "silent.wav", np.zeros(16000, np.float32))
    write_table(data / "wav.scp", paths)
    overrides = [f"heldout.data={data}", f"heldout.trials={voices / 'eval' / 'trials'}"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        out = run(configuration, tmp_path / "run", *overrides, "train.steps=4", "heldout.every=2")
    told = [str(one.message) for one in said if "heldout" in str(one.message)]
    assert len(told) == 1, told
    assert "2 of 16 utterances cannot be embedded" in told[0]
    assert "\n" not in told[0] and broken in told[0]
    measured = [line for line in log(out) if "heldout_unreadable" in line]
    assert [line["step"] for line in measured] == [0, 2, 4]
    assert {line["heldout_unreadable"] for line in measured} == {2}
    embedder = speechssl.load(out, device="cpu")
    kept = [name for name in sorted(paths) if name not in (broken, silent)]
    matrix = np.stack([embedder.embed(paths[name]) for name in kept])
    trials = read_trials(voices / "eval" / "trials")
    expected = evaluate((np.array(kept), matrix), trials, replicates=0, keep_going=True)["eer"]
    assert measured[-1]["heldout_eer"] == pytest.approx(expected, rel=1e-4)


def test_a_list_of_which_nothing_is_left_costs_its_figure_not_the_run(
    configuration, voices, tmp_path
):
    data = tmp_path / "eval"
    data.mkdir()
    names = [one.id for one in read_manifest(voices / "eval").utterances]
    silent = write_audio(tmp_path / "silent.wav", np.zeros(16000, np.float32))
    write_table(data / "wav.scp", dict.fromkeys(names, silent))
    overrides = [f"heldout.data={data}", f"heldout.trials={voices / 'eval' / 'trials'}"]
    with pytest.warns(UserWarning, match="16 of 16 utterances"):
        out = run(configuration, tmp_path / "run", "train.steps=2", *overrides)
    assert log(out)[-1]["step"] == 2
    assert "heldout_eer" not in log(out)[-1] and log(out)[-1]["heldout_unreadable"] == 16


def test_memory_that_is_missing_costs_the_figures_not_the_run(
    measured, configuration, heldout, tmp_path, monkeypatch
):
    from speechssl.embed.embedder import Embedder

    def stream(self, utterances):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(Embedder, "stream", stream)
    with pytest.warns(UserWarning, match="not enough memory .CUDA out of memory"):
        out = run(configuration, tmp_path / "run", "train.log_every=2", *heldout)
    assert equal(state(out)["method"], state(measured)["method"])


def read(configuration, *overrides):
    return read_heldout(resolve(str(configuration), overrides), [])


def test_the_same_utterances_are_drawn_whatever_the_seed_and_the_trials(
    configuration, voices, tmp_path
):
    """Of 16; the two of the trials are embedded as well, and do not count as drawn."""
    data = f"heldout.data={voices / 'eval'}"
    drawn = read(configuration, data, "heldout.utterances=5")
    assert len(drawn.utterances) == 5 and drawn.drawn.all()
    other_seed = read(configuration, data, "heldout.utterances=5", "seed=7")
    assert other_seed.utterances == drawn.utterances
    ids = {one.id for one in drawn.utterances}
    others = [one.id for one in read_manifest(voices / "eval") if one.id not in ids]
    trials = tmp_path / "trials"
    trials.write_text(f"{others[0]} {others[1]} target\n{others[0]} {others[2]} nontarget\n")
    both = read(configuration, data, "heldout.utterances=5", f"heldout.trials={trials}")
    assert {one.id for one in both.utterances} == ids | set(others[:3])
    assert {one.id for one, yes in zip(both.utterances, both.drawn, strict=True) if yes} == ids
    assert set(np.array([one.id for one in both.utterances])[both.named()]) == set(others[:3])


def test_no_more_than_the_beginning_of_an_utterance_is_read(configuration, voices, tmp_path):
    """Whatever utt2dur says: it may be wrong."""
    data = tmp_path / "long"
    data.mkdir()
    write_table(data / "wav.scp", {"a": "a.wav", "b": "b.wav"})
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", noise(3.0))
    write_table(data / "wav.scp", {name: tmp_path / f"{name}.wav" for name in ("a", "b")})
    write_table(data / "utt2dur", {"a": 0.5, "b": 900})
    found = read(configuration, f"heldout.data={data}", "heldout.max_seconds=2")
    assert [(one.start, one.stop) for one in found.utterances] == [(0, 2), (0, 2)]
    assert [one.seconds for one in found.utterances] == [0.5, 2]
    whole = read(configuration, f"heldout.data={data}", "heldout.max_seconds=.inf")
    assert [one.stop for one in whole.utterances] == [None, None]


def test_a_mean_is_taken_of_utterances_that_no_trial_names(
    measured, configuration, voices, monkeypatch, tmp_path
):
    """The centred EER is that of embeddings less this mean, and left out where they are few."""
    from speechssl.train import heldout

    assert not any("heldout_eer_centred" in line for line in log(measured))
    monkeypatch.setattr(heldout, "MIN_OTHERS", 4)
    names = [one.id for one in read_manifest(voices / "eval")]
    listed = (voices / "eval" / "trials").read_text().splitlines()
    trials = tmp_path / "trials"
    kept = [line for line in listed if not set(line.split()) & set(names[::4])]
    trials.write_text("\n".join(kept) + "\n")
    overrides = [f"heldout.data={voices / 'eval'}", f"heldout.trials={trials}"]
    out = run(configuration, tmp_path / "run", "train.steps=1", *overrides)
    embedder = speechssl.load(out, device="cpu")
    manifest = read_manifest(voices / "eval")
    matrix = np.stack([embedder.embed(one.path) for one in manifest])
    ids = read_trials(trials).ids()
    others = np.stack([row for row, one in zip(matrix, manifest, strict=True) if one.id not in ids])
    moved = {one.id: row - others.mean(0) for row, one in zip(matrix, manifest, strict=True)}
    wanted = read_trials(trials)
    scores = [
        np.dot(moved[a], moved[b]) / np.linalg.norm(moved[a]) / np.linalg.norm(moved[b])
        for a, b in zip(wanted.enrol.tolist(), wanted.test.tolist(), strict=True)
    ]
    expected = metrics.eer(scores, wanted.target)
    assert log(out)[-1]["heldout_eer_centred"] == pytest.approx(expected, rel=1e-4)


def test_utterances_that_are_trained_on_are_named(configuration, corpus, tmp_path):
    with pytest.warns(UserWarning, match="20 of 20 utterances are in data.train too"):
        run(configuration, tmp_path / "run", "train.steps=1", f"heldout.data={corpus}")


def test_neither_stops_a_run_nor_is_judged(measured, configuration, heldout, tmp_path):
    """With a monitor that stops at the first bad figure, and held-out voices that all sound alike."""
    from speechssl.sweep.measures import FIGURES, figures_of_log

    data = tmp_path / "alike"
    data.mkdir()
    one = write_audio(tmp_path / "one.wav", noise(1.0))
    write_table(data / "wav.scp", {f"u{number}": one for number in range(40)})
    overrides = [
        f"heldout.data={data}", "heldout.every=1", "monitor.stop=true", "monitor.patience=1",
        "monitor.after=0.0",
    ]  # fmt: skip
    out = run(configuration, tmp_path / "run", *overrides)
    lines = log(out)
    assert lines[-1]["step"] == 8 and not any("alarms" in line for line in lines)
    assert lines[-1]["heldout_centre_norm"] == pytest.approx(
        1, abs=1e-4
    )  # a collapse, if it were judged
    assert not any(
        key.startswith("heldout") for key in (*FIGURES, *figures_of_log(out / "log.jsonl"))
    )


def test_a_dry_run_measures_once_and_writes_nothing(configuration, heldout, tmp_path, capsys):
    run(configuration, tmp_path / "run", *heldout, dry_run=True)
    assert not (tmp_path / "run").exists()
    assert "held-out utterances: ok, EER " in capsys.readouterr().out


def test_the_eer_is_on_the_progress_line_in_trackers_on_the_page_and_in_the_terminal(
    configuration, heldout, tmp_path, capsys
):
    pytest.importorskip("rich")
    from rich.console import Console

    from speechssl.report.page.clips import Clips
    from speechssl.report.page.material import Material, PageSettings, Run
    from speechssl.report.page.sections import training
    from speechssl.report.watch.following import watched
    from speechssl.report.watch.frame import frame

    trackers = "train.trackers=[notebook]"
    out = run(configuration, tmp_path / "run", *heldout, trackers)
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("step 3/8  ") and "held-out EER " in line for line in said)
    assert (out / "curves.png").stat().st_size > 5000
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(frame(watched(out), 120))
    assert "held-out EER %" in console.export_text()
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    material = Material(["x"], PageSettings(), Clips({}, 0), runs=[Run("x", {}, {}, rows)])
    titles = [block.title for block in training.build(material) if hasattr(block, "title")]
    assert any(title.startswith("EER (%) of held-out trials") for title in titles)


@pytest.mark.slow
def test_several_processes_share_the_utterances(measured, configuration, heldout, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
        "speechssl", "train", str(configuration), *heldout, "train.log_every=2", "train.batch_size=2",
        "--out", str(out), "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in log(out) if "heldout_eer" in line]
    assert [line["step"] for line in lines] == [0, 3, 6, 8]
    assert "heldout_unreadable" not in lines[0]
    for key, value in lines[0].items():  # before the first step the network is the same
        assert value == pytest.approx(log(measured)[0][key], rel=1e-3, abs=1e-4), key
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["heldout"]["every"] == 3
