"""The table of measures: values by hand, intervals, and a new entry that shows up everywhere."""

import json

import numpy as np
import pytest
from builders import write_table

from speechssl import metrics
from speechssl.cli import main
from speechssl.data.trials import Trials, write_trials
from speechssl.evaluation.verification import measures
from speechssl.evaluation.verification.measures import CalibratedMeasure, CurveMeasure


def fnr_at_fpr_1(fpr, fnr):
    """Lowest share of target trials rejected, percent, with at most 1 % of non-targets accepted."""
    return 100 * float(fnr[fpr <= 0.01].min())


NEW = CurveMeasure("fnr_at_fpr_1", "FNR % at FPR 1 %", fnr_at_fpr_1, unit="%", digits=2)


@pytest.fixture
def new_entry(monkeypatch):
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, NEW))


def world(seed=0, speakers=10, each=6):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), each)
    x = (rng.normal(size=(speakers, 12))[who] + 1.2 * rng.normal(size=(len(who), 12))).astype("f4")
    ids = np.array([f"w{seed}u{i:02d}" for i in range(len(who))])
    left, right = np.triu_indices(len(who), 1)
    return ids, x, Trials(ids[left], ids[right], who[left] == who[right]), who


def test_names_are_those_of_results_files():
    """People script on these keys: none may go or change its name."""
    names = [measure.name for measure in measures.MEASURES]
    known = ("eer", "min_dcf_0.01", "min_dcf_0.05", "act_dcf_0.01", "act_dcf_0.05", "cllr")
    assert set(known) <= set(names)
    assert len(set(names)) == len(names)


def test_values_are_those_of_the_metrics():
    rng = np.random.default_rng(1)
    target = rng.random(600) < 0.3
    scores = np.round(rng.normal(size=600) + 1.5 * target, 1)  # with ties
    want = {
        "eer": metrics.eer(scores, target),
        "eer_interval": None,
        "min_dcf_0.01": metrics.min_dcf(scores, target, 0.01),
        "min_dcf_0.01_interval": None,
        "min_dcf_0.05": metrics.min_dcf(scores, target, 0.05),
        "min_dcf_0.05_interval": None,
    }
    assert measures.measure_curve(scores, target).items() >= want.items()
    want_calibrated = {
        "act_dcf_0.01": metrics.act_dcf(scores, target, 0.01),
        "act_dcf_0.05": metrics.act_dcf(scores, target, 0.05),
        "cllr": metrics.cllr(scores, target),
    }
    assert measures.measure_calibrated(scores, target).items() >= want_calibrated.items()


def test_intervals_are_those_of_the_bootstrap_of_trials():
    rng = np.random.default_rng(2)
    enrol, test = rng.integers(0, 9, (2, 500))
    target = enrol == test
    scores = rng.normal(size=500) + target
    found = measures.measure_curve(scores, target, (enrol, test), replicates=40, seed=3)
    want = metrics.bootstrap_trials(scores, target, enrol, test, replicates=40, seed=3)
    assert {key: tuple(found[f"{key}_interval"]) for key in want} == want


def test_a_measure_of_the_bootstrap_is_that_of_the_resampled_list():
    """The bootstrap passes only the corners of the curve: an entry must not notice."""
    rng = np.random.default_rng(4)
    enrol, test = rng.integers(0, 6, (2, 900))
    target = enrol == test
    scores = rng.normal(size=900) + 2 * target
    got = metrics.bootstrap_curve(
        {"x": fnr_at_fpr_1}, scores, target, enrol, test, replicates=1, seed=5
    )
    times = np.bincount(np.random.default_rng(5).integers(0, 6, 6), minlength=6)
    copies = np.where(enrol == test, times[enrol], times[enrol] * times[test])
    fpr, fnr, _ = metrics.det_curve(np.repeat(scores, copies), np.repeat(target, copies))
    assert got["x"] == pytest.approx((fnr_at_fpr_1(fpr, fnr),) * 2)


def test_a_new_entry_is_in_the_results_the_text_and_the_reports(tmp_path, capsys, new_entry):
    ids, x, trials, who = world()
    np.savez(tmp_path / "e.npz", ids=ids, embeddings=x)
    write_trials(trials, tmp_path / "trials", style="voxceleb")
    words = "".join(f"{name} {'ab'[i % 2]}\n" for i, name in enumerate(ids))
    (tmp_path / "utt2emotion").write_text(words)
    write_table(tmp_path / "utt2spk", {n: f"s{s}" for n, s in zip(ids, who)})
    out = tmp_path / "exp" / "eval" / "ours" / "list"
    command = ["evaluate", "verification", str(tmp_path / "e.npz")]
    command += ["--trials", str(tmp_path / "trials"), "--replicates", "30", "--out", str(out)]
    command += ["--speakers", str(tmp_path), "--split", str(tmp_path / "utt2emotion")]
    assert main(command) == 0

    results = json.loads((out / "results.json").read_text())
    value = results["fnr_at_fpr_1"]
    low, high = results["fnr_at_fpr_1_interval"]
    assert low <= value <= high and low < high
    assert all("fnr_at_fpr_1_interval" in row for row in results["split"]["rows"])
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("fnr_at_fpr_1 "))
    assert f"{value:.3f}%" in line and f"[{low:.3g}, {high:.3g}]" in line
    assert "fnr_at_fpr_1, targets same, non-targets different" in printed

    assert main(["report", str(tmp_path / "exp"), "--record"]) == 0
    assert "| FNR % at FPR 1 % |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "exp" / "record.json").read_text())
    assert row["fnr_at_fpr_1"] == value and row["fnr_at_fpr_1_interval"] == [low, high]
    assert f"| {value:.2f} [{low:.2f}, {high:.2f}] |" in (tmp_path / "exp/record.md").read_text()

    assert main(["report", str(tmp_path / "exp")]) == 0
    summary = json.loads((tmp_path / "exp" / "results.json").read_text())
    assert summary["fnr_at_fpr_1"] == {"ours": {"list": value}}
    assert summary["fnr_at_fpr_1_interval"] == {"ours": {"list": [low, high]}}

    assert main(["report", str(tmp_path / "exp"), "--compare"]) == 0
    arm = json.loads((tmp_path / "exp" / "comparison.json").read_text())["arms"]["ours"]
    assert arm["fnr_at_fpr_1"] == {"list": value}


def test_a_headline_has_a_place_in_the_short_tables(tmp_path, capsys, monkeypatch):
    headline = CurveMeasure("best", "Best %", lambda fpr, fnr: 7.0, digits=1, headline=True)
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, headline))
    out = tmp_path / "eval" / "ours" / "list"
    out.mkdir(parents=True)
    results = {"eer": 12.5, "eer_interval": [10.0, 15.0], "best": 7.0, "best_interval": [6.0, 8.0]}
    (out / "results.json").write_text(json.dumps(results))
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "EER %" in printed and "12.50" in printed
    assert "Best %" in printed and "7.0" in printed and "[6.0, 8.0]" in printed
    assert main(["report", str(tmp_path), "--compare"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()[:3]
    assert "| list | Best %, list |" in header and "| 12.5 | 7.0 |" in row


def test_a_calibrated_entry_is_reported_for_calibrated_scores_only(monkeypatch):
    from speechssl.evaluation.verification.verify import evaluate

    mean = CalibratedMeasure("mean_llr", "mean LLR", lambda llr, target: float(llr.mean()))
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, mean))
    ids, x, trials, _ = world()
    other_ids, other, other_trials, _ = world(1)
    assert "mean_llr" not in evaluate((ids, x), trials, replicates=0)
    calibration = ((other_ids, other), other_trials)
    assert "mean_llr" in evaluate((ids, x), trials, calibration=calibration, replicates=0)
