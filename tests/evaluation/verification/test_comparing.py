"""Two systems on one trial list: differences, their intervals, and what cannot be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speechssl import metrics
from speechssl.cli.command import main
from speechssl.data.trials import Trials, write_trials


def world(speakers=8, each=5):
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(speakers), each)
    x = rng.normal(size=(speakers, 12))[who] + 0.5 * rng.normal(size=(len(who), 12))
    ids = np.array([f"u{number}" for number in range(len(who))])
    left, right = np.triu_indices(len(who), 1)
    return ids, x.astype(np.float32), Trials(ids[left], ids[right], who[left] == who[right]), who


@pytest.fixture
def systems(tmp_path):
    """Embeddings of one system and of a noisier one, trials and speakers, in a folder."""
    ids, x, trials, who = world()
    noisy = x + np.random.default_rng(1).normal(0, 1.0, x.shape).astype(np.float32)
    for name, matrix in (("clear", x), ("noisy", noisy)):
        np.savez(tmp_path / f"{name}.npz", ids=ids, embeddings=matrix)
    write_trials(trials, tmp_path / "trials", style="voxceleb")
    (tmp_path / "utt2spk").write_text("".join(f"{n} s{s}\n" for n, s in zip(ids, who)))
    command = ["evaluate", "verification", str(tmp_path / "noisy.npz"), "--trials"]
    command += [str(tmp_path / "trials"), "--speakers", str(tmp_path), "--replicates", "40"]
    assert main([*command, "--out", str(tmp_path / "noisy")]) == 0
    return tmp_path


def measure(folder, *words):
    command = ["evaluate", "verification", str(folder / "clear.npz"), "--trials"]
    command += [str(folder / "trials"), "--speakers", str(folder), "--replicates", "40"]
    return main([*command, "--out", str(folder / "clear"), *words])


def test_the_difference_is_that_of_two_results(systems, capsys):
    capsys.readouterr()
    assert measure(systems, "--beside", f"before={systems / 'noisy'}") == 0
    printed = capsys.readouterr().out
    results = json.loads((systems / "clear" / "results.json").read_text())
    before = json.loads((systems / "noisy" / "results.json").read_text())
    found = results["beside"]["before"]
    assert found["trials"] == results["trials"] and found["eer"] == results["eer"]
    # scores are written with seven digits
    assert found["eer_other"] == pytest.approx(before["eer"], abs=0.05)
    assert found["eer_difference"] == found["eer"] - found["eer_other"] < 0
    low, high = found["eer_difference_interval"]
    assert low <= found["eer_difference"] <= high
    line = next(line for line in printed.splitlines() if line.startswith("eer, before"))
    assert f"{found['eer_other']:.3f}%, this one {found['eer_difference']:+.3f}" in line
    assert set(found) >= {"min_dcf_0.01_difference", "min_dcf_0.05_difference_interval"}


def test_only_trials_of_both_count_and_a_system_beside_itself_is_no_better(systems, capsys):
    lines = (systems / "noisy" / "scores").read_text().splitlines(keepends=True)
    (systems / "some").write_text("".join(lines[::2]))
    assert measure(systems) == 0
    own = systems / "clear" / "scores"
    own.rename(systems / "own")
    words = [f"some={systems / 'some'}", f"itself={systems / 'own'}"]
    capsys.readouterr()
    assert measure(systems, "--against", *words) == 0
    assert f"(on {len(lines[::2])} trials of both)" in capsys.readouterr().out
    beside = json.loads((systems / "clear" / "results.json").read_text())["beside"]
    kept = {tuple(line.split()[:2]) for line in lines[::2]}
    rows = [line.split() for line in (systems / "own").read_text().splitlines()]
    answers = [line.split()[0] == "1" for line in (systems / "trials").read_text().splitlines()]
    pairs = [(float(r[2]), a) for r, a in zip(rows, answers, strict=True) if tuple(r[:2]) in kept]
    scores, target = zip(*pairs, strict=True)
    assert beside["some"]["eer"] == pytest.approx(metrics.eer(scores, target), abs=0.05)
    assert beside["itself"]["eer_difference"] == pytest.approx(0, abs=0.05)
    low, high = beside["itself"]["eer_difference_interval"]
    assert (low, high) == pytest.approx((0, 0), abs=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b 0.5\n", "shares 0 target and 0 non-target trials"),
        ("a b high\n", "scores:1: 'a b high' is not"),
        ("a b nan\n", "is not `enrol test score`"),
        (None, "no such file"),
    ],
)
def test_what_cannot_be_compared_is_one_line(systems, capsys, text, message):
    other = systems / "other-scores"
    if text is not None:
        other.write_text(text)
    capsys.readouterr()
    assert measure(systems, "--beside", f"x={other}") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert measure(systems, "--beside", f"x={other}", f"x={other}") == 2
    assert "named twice" in capsys.readouterr().err
