"""The monitor speaks after its patience, not before, and never of healthy embeddings."""

import math
import re

import pytest
import torch

from speechssl.diagnostics.monitor import Monitor
from speechssl.diagnostics.ranks import rank_collapsed

DIM = 32
HEALTHY = {"teacher_entropy": 1.5, "kl": 0.3}


def normal(count, dim=DIM, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def one_line(count):
    """Embeddings that differ along one direction only."""
    return normal(count, 1) @ normal(1, DIM, 3) + 1e-4 * normal(count)


def monitor(embeddings, **options):
    m = Monitor(DIM, **options)
    for start in range(0, len(embeddings), 64):
        m.add(embeddings[start : start + 64])
    return m


def test_no_figures_before_there_are_enough_embeddings():
    m = Monitor(DIM)
    assert m.figures() == {}
    m.add(normal(2 * DIM - 1))
    assert m.figures() == {}
    m.add(normal(1, seed=1))
    assert set(m.figures()) == {
        "rankme",
        "effective_rank",
        "centre_norm",
        "deviation",
        "uniformity",
    }


def test_only_the_last_embeddings_are_kept_and_memory_is_bounded():
    m = monitor(one_line(1024))
    assert m.figures()["effective_rank"] < 2
    for number in range(20):
        m.add(normal(64, seed=number))
    assert m.figures()["effective_rank"] > 0.9 * DIM
    kept = m.state()["embeddings"]
    assert sum(len(x) for x in kept) <= m.size + 64


def test_healthy_embeddings_raise_no_alarm():
    m = monitor(normal(1024) + 0.5, prototypes=64)
    for _ in range(20):
        assert m.check(m.figures() | HEALTHY) == []


@pytest.mark.parametrize(
    ("embeddings", "symptom"),
    [(one_line(1024), "directions"), (normal(1024) + 50, "one way")],
    ids=["dimensional", "complete"],
)
def test_a_collapse_is_named_once_after_the_patience(embeddings, symptom):
    m = monitor(embeddings, patience=3)
    said = [m.check(m.figures()) for _ in range(6)]
    assert [len(alarms) for alarms in said] == [0, 0, 1, 0, 0, 0]
    assert symptom in str(said[2][0]) and "\n" not in str(said[2][0])
    assert all(part in str(said[2][0]) for part in ("likely cause:", "remedy:"))


def test_a_recovery_starts_the_count_anew():
    bad, good = {"effective_rank": 1.0}, {"effective_rank": 20.0}
    m = Monitor(DIM, patience=2)
    assert [len(m.check(f)) for f in (bad, good, bad, bad, good, bad, bad)] == [0, 0, 0, 1, 0, 0, 1]


def test_a_check_without_new_figures_neither_counts_nor_forgives():
    bad = {"effective_rank": 1.0}
    m = Monitor(DIM, patience=2)
    assert [len(m.check(f)) for f in (bad, {}, {"loss": 3.0}, bad)] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("figures", "symptom"),
    [
        ({"teacher_entropy": 0.995 * math.log(64), "kl": 0.1}, "flat"),
        ({"teacher_entropy": 0.0, "kl": 0.1}, "one-hot"),
        ({"teacher_entropy": 1.5, "kl": 1e-4}, "agree"),
    ],
)
def test_the_entropies_of_dino_are_judged(figures, symptom):
    m = Monitor(DIM, patience=1, prototypes=64)
    (alarm,) = m.check(figures)
    assert symptom in str(alarm)


@pytest.mark.parametrize(
    ("temperature", "figures", "said"),
    [
        (
            0.025,
            {"teacher_entropy": math.log(64)},
            r"lower teacher_temperature \(0.025 now, try 0.015\)",
        ),
        (
            0.07,
            {"teacher_entropy": math.log(64)},
            r"lower teacher_temperature \(0.07 now, try 0.042\)",
        ),
        (0.04, {"teacher_entropy": 0.0}, r"raise teacher_temperature \(0.04 now, try 0.068\)"),
        (None, {"teacher_entropy": math.log(64)}, "lower teacher_temperature, or fewer"),
        (0.025, {"kl": 0.0}, r"lower teacher_temperature \(0.025 now, try 0.015\) or the"),
        (None, {"kl": 0.0}, "lower teacher_temperature or the"),
    ],
)
def test_advice_about_the_temperature_is_relative_to_the_own(temperature, figures, said):
    monitor = Monitor(DIM, patience=1, prototypes=64, teacher_temperature=temperature)
    (alarm,) = monitor.check(figures)
    assert re.search(said, alarm.remedy), alarm.remedy


def test_entropy_is_not_judged_without_prototypes():
    assert Monitor(DIM, patience=1).check({"teacher_entropy": 0.0}) == []


def narrowing(step):
    """Embeddings that lose directions step by step."""
    return normal(1024, seed=step) * torch.exp(-0.35 * step * torch.arange(DIM) / DIM)


def test_a_rank_that_keeps_falling_is_named_before_it_is_gone():
    m, ranks, alarms = Monitor(DIM, patience=2), [], []
    for step in range(40):
        m.add(narrowing(step))
        figures = m.figures()
        ranks.append(figures["effective_rank"])
        alarms += [a for a in m.check(figures) if "ever fewer" in a.symptom]
        if alarms:
            break
    assert len(alarms) == 1 and 0.05 * DIM < ranks[-1] < 0.4 * ranks[0]


def test_a_low_rank_that_does_not_fall_is_no_fall():
    m = Monitor(DIM, patience=2)
    m.check({"effective_rank": 30.0})
    for _ in range(10):
        assert m.check({"effective_rank": 10.0})[1:] == []


def test_the_monitor_and_the_diagnostics_have_one_rule():
    for dim in (4, 32, 200):
        limit = max(1.2, 0.05 * dim)
        for rank in (0.99 * limit, 1.01 * limit):
            alarms = Monitor(dim, patience=1).check({"effective_rank": rank})
            assert bool(alarms) == rank_collapsed(rank, 2 * dim, dim) == (rank < limit)


def test_fewer_embeddings_than_dimensions_have_fewer_directions():
    assert rank_collapsed(1.9, 1000, 40) and not rank_collapsed(1.9, 21, 40)
    assert rank_collapsed(1.1, 3, 40) and not rank_collapsed(1.3, 3, 40)


def test_a_figure_that_is_not_a_number_is_no_alarm():
    nothing = dict.fromkeys(("effective_rank", "projection_rank", "centre_norm", "kl"), math.nan)
    assert Monitor(DIM, patience=1).check(nothing) == []


def test_its_state_continues_it():
    one, two = Monitor(DIM), Monitor(DIM)
    for step in range(3):
        one.add(narrowing(10 * step))
        one.check(one.figures())
    two.restore(one.state(), torch.device("cpu"))
    for m in (one, two):
        m.add(narrowing(35))
    assert one.figures() == two.figures()
    assert one.check(one.figures()) == two.check(two.figures())


def test_projections_that_lose_their_directions_are_named_though_embeddings_keep_theirs():
    m, alarms = Monitor(DIM, patience=2), []
    for step in range(30):
        m.add(normal(1024, seed=step), narrowing(step))
        alarms += m.check(m.figures())
    assert [a.symptom.split()[0] for a in alarms] == ["projections"]


def test_projections_of_another_size_start_anew():
    m = monitor(normal(1024))
    m.add(normal(64), normal(64, 8))
    m.add(normal(64, seed=1), normal(64, 16, seed=1))
    assert 8 < m.figures()["projection_rank"] <= 16
