"""Learning rate and weight decay over a run."""

import math

import pytest

from speechssl.train.schedules import warmup_cosine


def test_the_end_points():
    rate = [warmup_cosine(f, 2.0, 0.5, 0.1) for f in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rate == pytest.approx([0.0, 1.0, 2.0, 1.25, 0.5])


def test_without_a_warm_up_the_first_step_has_the_full_rate():
    assert warmup_cosine(0.0, 2.0, 0.5, 0.0) == 2.0
    assert warmup_cosine(0.25, 2.0, 0.0, 0.0) == pytest.approx(1 + math.cos(math.pi / 4))


def test_it_rises_then_falls_and_never_jumps():
    rate = [warmup_cosine(i / 1000, 1.0, 0.01, 0.2) for i in range(1001)]
    assert all(b > a for a, b in zip(rate[:200], rate[1:201]))
    assert all(b <= a for a, b in zip(rate[200:], rate[201:]))
    assert max(abs(a - b) for a, b in zip(rate, rate[1:])) <= 0.0051
    assert min(rate[200:]) == pytest.approx(0.01)


def test_a_run_that_is_all_warm_up_and_one_that_is_over():
    assert warmup_cosine(0.5, 1.0, 0.1, 1.0) == 0.5
    assert warmup_cosine(1.0, 1.0, 0.1, 1.0) == pytest.approx(1.0)
    assert warmup_cosine(1.5, 1.0, 0.1, 0.2) == pytest.approx(0.1)


def test_a_weight_decay_that_rises():
    assert [warmup_cosine(f, 0.04, 0.4, 0.0) for f in (0, 0.5, 1)] == pytest.approx(
        [0.04, 0.22, 0.4]
    )
