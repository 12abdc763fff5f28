"""Means, spreads and paired intervals against scipy, numpy and hand computations."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from speechssl.errors import UserError
from speechssl.sweep.grid import plan, read_words
from speechssl.sweep.table import Table, paired_difference, summarise


def test_mean_and_spread_are_numpys() -> None:
    values = [3.0, 5.0, 10.0]
    summary = summarise([*values, math.nan])
    assert summary.count == 3 and summary.mean == 6.0
    assert summary.deviation == pytest.approx(math.sqrt(13))  # (9 + 1 + 16) / 2
    assert math.isnan(summarise([2.0]).deviation) and summarise([]).count == 0


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=6)
    other = rng.normal(size=6)
    found = paired_difference(dict(enumerate(one)), dict(enumerate(other)))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert found.mean == pytest.approx((one - other).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_pairs_share_a_seed_and_one_pair_has_no_interval() -> None:
    found = paired_difference({0: 5.0, 1: 6.0, 2: math.nan}, {1: 2.0, 2: 1.0, 3: 0.0})
    assert (found.count, found.mean) == (1, 4.0) and math.isnan(found.low)


@pytest.fixture
def table() -> Table:
    runs = plan(*read_words(["method=a,b", "seed=0..2"]))
    measured = {}
    for number, run in enumerate(runs):
        shift = 10.0 if run.setting == "method=b" else 0.0
        assert run.seed is not None
        measured[run.name] = {"loss": 1.0 + number, "eval/eer": shift + run.seed}
    del measured["method=b,seed=2"]  # it failed
    return Table(runs, measured)


def test_the_files_say_what_was_computed(table: Table, tmp_path: Path) -> None:
    text = table.write(tmp_path, ["Labels used: none."])
    assert text.splitlines()[2].startswith("| setting | runs | eval/eer | loss |")  # errors first
    assert "| method=b | 2 | 10.50 ± 0.71 |" in text and "Labels used: none." in text
    assert "| method=b | +10.00 [+10.00, +10.00] |" in text
    with (tmp_path / "sweep.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    (row,) = [r for r in rows if r["setting"] == "method=b" and r["measure"] == "eval/eer"]
    assert (row["n"], row["mean"], row["pairs"], row["difference"]) == ("2", "10.5", "2", "10")
    with (tmp_path / "runs.tsv").open() as file:
        runs = list(csv.DictReader(file, delimiter="\t"))
    assert len(runs) == 6 and runs[-1]["eval/eer"] == "" and runs[-1]["seed"] == "2"
    with (tmp_path / "differences.tsv").open() as file:
        (first, *_) = csv.DictReader(file, delimiter="\t")
    assert (first["setting"], first["minus"]) == ("method=b", "method=a")


def test_of_very_many_measures_people_see_the_first_of_each_list(tmp_path: Path) -> None:
    runs = plan(*read_words(["method=a,b"]))
    lists = [f"list{number}/{key}" for number in range(5) for key in ("eer", "min_dcf", "cllr")]
    measured = {run.name: dict.fromkeys([*lists, "loss"], 1.0) for run in runs}
    text = Table(runs, measured).write(tmp_path)
    head = "| setting | runs | list0/eer | list1/eer | list2/eer | list3/eer | list4/eer | loss |"
    assert text.splitlines()[2] == head and "are in sweep.tsv" in text
    assert "list4/cllr" in (tmp_path / "sweep.tsv").read_text()
    few = {run.name: dict.fromkeys([*lists[:9], "loss"], 1.0) for run in runs}
    assert "list2/cllr" in Table(runs, few).write(tmp_path)


def test_an_unknown_reference_is_one_line(table: Table) -> None:
    with pytest.raises(UserError, match="no setting 'c'"):
        Table(table.runs, table.measured, "c")


def test_names_are_text_in_the_table(tmp_path: Path) -> None:
    runs = plan([], {"seed": ["0"]}, {"=cmd()": [], "<script>": []})
    text = Table(runs, {run.name: {"l|<b>/eer": 1.0} for run in runs}).write(tmp_path)
    assert "<b>" not in text and "<script>" not in text
