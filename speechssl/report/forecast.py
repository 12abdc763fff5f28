"""Forecast the error of a model from how collapsed it is, without its labels (Li et al. 2022).

Downstream error as a linear function of the AUC of the cumulative spectrum
(`diagnostics/spectrum_auc.py`, methods/README.md 4.4), fitted over models of one family
whose errors are known. How good a forecast is, is measured on models that are left out
of the fit one by one, beside what the mean of the others would have forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_MODELS = 4
"""Below that a line through all but one model has nothing left to show."""


class Forecast(NamedTuple):
    """A line fitted to N models.

    Attributes:
        models: N.
        intercept, slope: of error = intercept + slope * AUC.
        r2: share of the variance of the errors that the line explains, 0 to 1.
        left_out: mean absolute error of the forecasts of models left out one by one.
        mean_left_out: the same where the forecast is the mean of the others.
    """

    models: int
    intercept: float
    slope: float
    r2: float
    left_out: float
    mean_left_out: float


def forecast(auc: Sequence[float], errors: Sequence[float]) -> Forecast | None:
    """Fit the line; None for fewer than four models, or where all have one AUC or one error.

    Args:
        auc: (N,) of the models.
        errors: (N,) in any unit, such as EER in percent.
    """
    x = np.asarray(auc, np.float64)
    y = np.asarray(errors, np.float64)
    if len(x) < MIN_MODELS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    intercept, slope = _line(x, y)
    residual = y - intercept - slope * x
    forecasts = []
    means = []
    for left_out in range(len(x)):
        others = np.arange(len(x)) != left_out
        a, b = _line(x[others], y[others])
        forecasts.append(a + b * x[left_out])
        means.append(y[others].mean())
    return Forecast(
        models=len(x),
        intercept=intercept,
        slope=slope,
        r2=float(1 - residual.var() / y.var()),
        left_out=float(np.abs(np.array(forecasts) - y).mean()),
        mean_left_out=float(np.abs(np.array(means) - y).mean()),
    )


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return intercept and slope of least squares; slope 0 where all `x` are equal."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square if square else 0.0
    return float(y.mean() - slope * x.mean()), slope
