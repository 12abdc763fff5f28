"""The measures of a verification run, as one table.

An entry of `MEASURES` is all that a measure needs: the results, their bootstrap intervals, the
table that the command prints, the split by a label (`conditions`), and the record, summary and
comparison of `speechssl report` read this table. Example: the miss rate at the best threshold that
accepts at most 1 % of the non-target trials,

    CurveMeasure(
        "fnr_at_fpr_1",
        "FNR % at FPR 1 %",
        lambda fpr, fnr: 100 * float(fnr[fpr <= 0.01].min()),
        unit="%",
        digits=2,
    )

Keys of results.json stay: people script on them. Rename no entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics

Scores = NDArray[np.float64]
Targets = NDArray[np.bool_]


@dataclass(frozen=True)
class CurveMeasure:
    """A measure of the error curve; it needs no calibrated scores and has a bootstrap interval.

    Attributes:
        name: key in results.json; its interval is `<name>_interval`.
        title: heading of its column in tables.
        compute: function of fpr (U + 1,) and fnr (U + 1,), both 0 to 1, as `metrics.det_curve`
            returns them: fpr falls from 1 to 0, fnr rises from 0 to 1, straight lines between the
            points. The bootstrap calls it once a replicate with the points where the curve can
            turn, so it costs no sort.
        unit: what follows the number, such as `%`.
        digits: after the point, in tables of reports.
        headline: also in the short tables of `speechssl report` (the other measures are in its
            files only).
    """

    name: str
    title: str
    compute: Callable[[metrics.Floats, metrics.Floats], float]
    unit: str = ""
    digits: int = 3
    headline: bool = False

    needs_calibration: ClassVar[bool] = False


@dataclass(frozen=True)
class CalibratedMeasure:
    """A measure of natural-log likelihood ratios, reported only for calibrated scores.

    It has no interval: calibration has an uncertainty of its own, which resampling the test alone
    would hide.

    Attributes:
        name: key in results.json.
        title: heading of its column in tables.
        compute: function of the ratios (T,) and the targets (T,).
        unit: what follows the number, such as ` bit`.
        digits: after the point, in tables of reports.
    """

    name: str
    title: str
    compute: Callable[[Scores, Targets], float]
    unit: str = ""
    digits: int = 3

    headline: ClassVar[bool] = False
    needs_calibration: ClassVar[bool] = True


Measure = CurveMeasure | CalibratedMeasure

MEASURES: tuple[Measure, ...] = (
    CurveMeasure("eer", "EER %", metrics.curve_eer, unit="%", digits=2, headline=True),
    CurveMeasure("min_dcf_0.01", "minDCF 0.01", partial(metrics.curve_min_dcf, p_target=0.01)),
    CurveMeasure("min_dcf_0.05", "minDCF 0.05", partial(metrics.curve_min_dcf, p_target=0.05)),
    CalibratedMeasure("act_dcf_0.01", "actDCF 0.01", partial(metrics.act_dcf, p_target=0.01)),
    CalibratedMeasure("act_dcf_0.05", "actDCF 0.05", partial(metrics.act_dcf, p_target=0.05)),
    CalibratedMeasure("cllr", "Cllr bit", metrics.cllr, unit=" bit"),
)
"""The table: add an entry, and it is everywhere."""


def measure_curve(
    scores: Scores,
    target: Targets,
    speakers: tuple[NDArray[Any], NDArray[Any]] | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute every measure of the error curve.

    Args:
        scores: (T,).
        target: (T,), true for target trials.
        speakers: the speakers (T,) of both sides of the trials; None: no intervals.
        replicates: bootstrap resamples of the speakers; 0: no intervals.
        seed: of the resamples.

    Returns:
        `<name>` and `<name>_interval` ([low, high], 95 %, or None) of each measure.
    """
    fpr, fnr, _ = metrics.det_curve(scores, target)
    computes = {m.name: m.compute for m in MEASURES if isinstance(m, CurveMeasure)}
    intervals: Mapping[str, metrics.Interval | None] = {}
    if speakers is not None and replicates:
        intervals = metrics.bootstrap_curve(
            computes, scores, target, *speakers, replicates=replicates, seed=seed
        )
    results: dict[str, Any] = {}
    for name, compute in computes.items():
        interval = intervals.get(name)
        results[name] = compute(fpr, fnr)
        results[f"{name}_interval"] = None if interval is None else list(interval)
    return results


def measure_calibrated(llr: Scores, target: Targets) -> dict[str, float]:
    """Compute every measure of calibrated scores: natural-log likelihood ratios (T,)."""
    measures = [m for m in MEASURES if isinstance(m, CalibratedMeasure)]
    return {measure.name: measure.compute(llr, target) for measure in measures}
