"""The benchmarks beside other programs: what they say without a clone, and our side of them.

The programs themselves are not here: their sides run where somebody has fetched them.
"""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import ROOT

from egs.bench.peers import _corpus, _measure, scoring
from egs.bench.peers._ours import Trainer
from egs.bench.peers._setup import Crops
from speechssl.data.vectors.files import read_vectors

SCRIPTS = ("dino_step", "loader", "extraction", "scoring")
SMALL = {
    "dino_step": [],
    "loader": ["--utterances", "2"],
    "extraction": ["--files", "1"],
    "scoring": ["--trials", "2000", "--utterances", "100", "--cohort", "0"],
}


def start(script, *words):
    command = [sys.executable, "-m", f"egs.bench.peers.{script}", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_programs_and_where_they_are(script):
    done = start(script, "--help")
    assert done.returncode == 0
    for word in ("--sslsv DIR", "--wespeaker DIR", "--3dspeaker DIR", "github.com/modelscope"):
        assert word in done.stdout


def test_without_a_program_there_is_nothing_to_measure():
    done = start("dino_step")
    assert done.returncode == 2
    assert "name at least one program" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_is_no_clone_is_one_line(script, tmp_path):
    done = start(script, "--sslsv", str(tmp_path), *SMALL[script])
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert f"sslsv: left out: {tmp_path} has no sslsv" in lines[0]
    assert "github.com/theolepage/sslsv" in lines[0]


def test_a_package_that_the_program_misses_is_named(tmp_path):
    package = tmp_path / "sslsv" / "encoders"
    package.mkdir(parents=True)
    (tmp_path / "sslsv" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("import no_such_package\n")
    done = start("dino_step", "--sslsv", str(tmp_path))
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "sslsv: left out: it needs the package no_such_package" in done.stdout


@pytest.mark.parametrize("features", [True, False])
def test_our_side_takes_a_whole_step(features):
    torch.manual_seed(0)
    crops = Crops(long=0.5, short=0.3, features=features, frames=(50, 30))
    trainer = Trainer(SimpleNamespace(crops=crops), 4)
    method = trainer.run.method
    assert [p.shape for p in (method.student.head.weight_v,)] == [(4096, 256)]
    before = {
        name: network.encoder.state_dict()["fc.conv.weight"].clone()
        for name, network in (("student", method.student), ("teacher", method.teacher))
    }
    batch = trainer.batch()
    trainer.take([batch])  # the rate of the first step is 0
    trainer.take([batch])
    assert trainer.run.step == 2
    for name, network in (("student", method.student), ("teacher", method.teacher)):
        after = network.encoder.state_dict()["fc.conv.weight"]
        assert not torch.equal(after, before[name]), name


def test_scores_are_those_of_a_loop_over_the_trials(tmp_path):
    trials = scoring.generate(tmp_path, utterances=40, trials=300)
    figures = scoring.ours(trials, None)()
    rows = trials.embeddings / np.linalg.norm(trials.embeddings, axis=1, keepdims=True)
    vectors = dict(zip(trials.names, rows, strict=True))
    targets, others = [], []
    for line in (tmp_path / "trials.kaldi").read_text().splitlines():
        first, second, same = line.split()
        (targets if same == "target" else others).append(vectors[first] @ vectors[second])
    targets, others = np.sort(targets), np.sort(others)
    assert len(targets) >= 30
    thresholds = np.concatenate([targets, others])
    misses = np.array([(targets < t).mean() for t in thresholds])
    alarms = np.array([(others >= t).mean() for t in thresholds])
    worse = np.maximum(misses, alarms).min()
    assert figures["eer"] == pytest.approx(100 * worse, abs=100 * 2 / len(targets))
    cost = np.minimum(misses + 99 * alarms, 1.0).min()
    assert figures["mindcf"] == pytest.approx(cost, abs=1e-3)
    voxceleb = (tmp_path / "trials.voxceleb").read_text().splitlines()
    assert voxceleb[0].split()[1:] == trials_of(tmp_path)[0][:2]


def trials_of(folder):
    return [line.split() for line in (folder / "trials.kaldi").read_text().splitlines()]


def test_archives_for_the_programs_are_kaldis(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    names = [f"u{number}" for number in range(5)]
    _corpus.write_vectors(tmp_path / "x.ark", names, vectors)
    for ending in ("ark", "scp"):
        ids, read = read_vectors(tmp_path / f"x.{ending}")
        assert list(ids) == names
        np.testing.assert_array_equal(read, vectors)


def test_the_peak_is_of_this_process_and_never_falls():
    before = _measure.peak_gigabytes()
    block = np.ones(int(before * 1e9 / 8) + 20_000_000)
    after = _measure.peak_gigabytes()
    assert after >= before + 0.15
    del block
    assert _measure.peak_gigabytes() >= after - 0.01  # the kernel counts in batches of pages


def test_medians_leave_the_first_round_out():
    calls = []

    def slow_at_first():
        calls.append(1)
        if len(calls) == 1:
            torch.randn(400, 400) @ torch.randn(400, 400)
            sum(range(3_000_000))

    seconds = _measure.in_turns({"a": slow_at_first, "b": lambda: None}, rounds=3)
    assert len(calls) == 4
    assert seconds["a"].processor < 0.01 and seconds["a"].wall < 0.1
