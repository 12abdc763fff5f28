"""Figures of merit, in numpy: verification errors, classification scores, cluster agreement, and
bootstrap intervals. All of them can be imported from here.
"""

from speechssl.metrics.agreement import ari, nmi, purity
from speechssl.metrics.bootstrap import (
    Interval,
    bootstrap_curve,
    bootstrap_curve_differences,
    bootstrap_interval,
    bootstrap_trials,
    format_interval,
)
from speechssl.metrics.classification import (
    contingency,
    macro_f1,
    macro_f1_of,
    micro_f1,
    micro_f1_of,
    uar,
    uar_of,
)
from speechssl.metrics.verification import (
    CurveFigure,
    Floats,
    act_dcf,
    cllr,
    curve_eer,
    curve_min_dcf,
    det_curve,
    eer,
    eer_point,
    min_dcf,
)

__all__ = [
    "CurveFigure",
    "Floats",
    "Interval",
    "act_dcf",
    "ari",
    "bootstrap_curve",
    "bootstrap_curve_differences",
    "bootstrap_interval",
    "bootstrap_trials",
    "cllr",
    "contingency",
    "curve_eer",
    "curve_min_dcf",
    "det_curve",
    "eer",
    "eer_point",
    "format_interval",
    "macro_f1",
    "macro_f1_of",
    "micro_f1",
    "micro_f1_of",
    "min_dcf",
    "nmi",
    "purity",
    "uar",
    "uar_of",
]
