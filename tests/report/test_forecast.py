"""The forecast of an error from the spectrum: a line through models, and models left out of it."""

import numpy as np
import pytest

from speechssl.report.forecast import forecast


def test_errors_on_a_line_are_forecast_exactly():
    auc = [0.6, 0.7, 0.75, 0.9]
    line = forecast(auc, [5 + 20 * x for x in auc])
    assert line.slope == pytest.approx(20) and line.intercept == pytest.approx(5)
    assert line.r2 == pytest.approx(1) and line.left_out == pytest.approx(0, abs=1e-9)
    assert line.mean_left_out > 2 and line.models == 4


def test_a_model_left_out_by_hand():
    # without the last: the line y = x; without the first: through (1, 1), (2, 2), (3, 9): y = 4x - 4
    line = forecast([0, 1, 2, 3], [0, 1, 2, 9])
    assert line.slope == pytest.approx(2.8) and line.intercept == pytest.approx(-1.2)
    # left out: 0 -> -4 (y 0), 1 -> 11/14 + ..., 3 -> 3 (y 9)
    fits = []
    x, y = np.arange(4.0), np.array([0.0, 1, 2, 9])
    for i in range(4):
        others = [j for j in range(4) if j != i]
        slope, intercept = np.polyfit(x[others], y[others], 1)
        fits.append(abs(intercept + slope * x[i] - y[i]))
    assert fits[0] == pytest.approx(4) and fits[3] == pytest.approx(6)
    assert line.left_out == pytest.approx(np.mean(fits))
    assert line.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


def test_an_auc_that_says_nothing_is_no_better_than_the_mean():
    rng = np.random.default_rng(0)
    line = forecast(rng.random(200), rng.random(200))
    assert line.r2 < 0.05 and line.left_out == pytest.approx(line.mean_left_out, rel=0.05)


@pytest.mark.parametrize(
    ("auc", "errors"), [([0.6, 0.7, 0.8], [1, 2, 3]), ([0.6] * 5, range(5)), (range(5), [3] * 5)]
)
def test_there_is_none_without_four_different_models(auc, errors):
    assert forecast(list(auc), list(errors)) is None
