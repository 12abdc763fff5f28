"""The known-answer experiments of egs/theory come out as predicted (methods/README.md 1.6, 2.8, 2.9, 4.2,
4.6, 14.5).
"""

import math
import sys

import pytest
from builders import ROOT

sys.path.insert(0, str(ROOT / "egs/theory"))

import decorrelation
import dino
import linear
import network
import pairwise
import uniformity

FAST = [
    *linear.EXPERIMENTS,
    *uniformity.EXPERIMENTS,
    *decorrelation.EXPERIMENTS,
    *pairwise.EXPERIMENTS,
]
SLOW = [*network.EXPERIMENTS, *dino.EXPERIMENTS]


def name(experiment):
    return f"{experiment.__module__}.{experiment.__name__}"


def holds(experiment):
    rows = experiment()
    assert rows
    wrong = [str(row) for row in rows if not row.holds]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("experiment", FAST, ids=name)
def test_what_is_predicted_is_measured(experiment):
    holds(experiment)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SLOW, ids=name)
def test_what_is_predicted_is_measured_of_networks(experiment):
    holds(experiment)


def test_sharpening_is_what_keeps_dinos_teacher_from_being_flat():
    full, flat = dino.run("full", 300), dino.run("no sharpening", 300)
    assert flat["teacher_entropy"] > 0.98 * math.log(dino.K)
    assert full["teacher_entropy"] < 0.05 * math.log(dino.K)
    assert full["kl"] > 10 * flat["kl"]
    assert full["used_prototypes"] > 5


def test_guidance_drives_the_centre_down_where_nothing_else_does():
    none, guided = network.train("none", steps=300), network.train("none", gsg=True, steps=300)
    mlp = network.train("mlp", steps=300)
    assert guided.centre < none.centre and mlp.centre < none.centre - 0.1
    assert mlp.rank > 1.3 * none.rank


def test_a_row_that_is_off_does_not_hold():
    from _table import Row

    assert not Row("x", 1.0, 2.0, 0.5).holds and Row("x", 1.0, 2.0, 0.5, relative=True).holds
    assert not Row("x", 1.0, low=2.0).holds and Row("x", 1.0, high=2.0).holds
    assert not Row("x", math.nan, 2.0, 0.5).holds and not Row("x", math.nan, low=0.0).holds
