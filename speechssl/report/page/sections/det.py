"""Detection error trade-off curves of all systems over each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from speechssl import metrics
from speechssl.report.det import BAND_FPR, EDGES, MOST_BANDS, TICKS, min_dcf_point, rows_of
from speechssl.report.page.blocks import Block, Chart, Text, Trace, plotly_text
from speechssl.report.page.drawing import Styles, line, probit_axis, thinned
from speechssl.report.page.material import Material, ScoredTrials, SystemEvaluation
from speechssl.report.page.section import Section

MOST_POINTS = 60_000
"""Of all curves together, some 4 MB of the page."""
FEWEST_POINTS = 50
"""Of each curve, however many there are."""


def build(material: Material) -> Sequence[Block]:
    """Return the curves of each trial list, or a hint how to keep the scores."""
    if not material.evaluations:
        return []
    scored = [one for one in material.evaluations if one.scored is not None]
    if not scored:
        text = (
            "No evaluation kept its scores and trials (`speechssl evaluate verification --out DIR`"
            " writes both): no curves can be drawn."
        )
        return [Text(text, "note")]
    styles = Styles([one.system for one in material.evaluations])
    has_bands = len({one.system for one in scored}) <= MOST_BANDS
    most = min(1500, max(FEWEST_POINTS, MOST_POINTS // len(scored)))
    variants: dict[str, list[Trace]] = {}
    for one in scored:
        assert one.scored is not None
        variants.setdefault(one.results.trials, []).extend(
            _traces(one, one.scored, styles, has_bands, most)
        )
    caption = (
        "Lower left is better; axes of normal deviates. Circle: equal error rate; square and"
        " diamond: minDCF at a target prior of 0.01 and 0.05"
    )
    if has_bands:
        caption += "; shaded: 95 % band over speakers, where the evaluation kept one."
    else:
        caption += (
            f". Bands of more than {MOST_BANDS} systems would hide each other: see the table."
        )
    return [Chart("Detection error trade-off", caption, variants, _layout(), height=680)]


def _layout() -> dict[str, Any]:
    """Return two probit axes of one scale, which make a square in the middle of the chart."""
    ticks = [tick for tick in TICKS if EDGES[0] < tick / 100 < EDGES[1]]
    x = probit_axis("false positives (%)", ticks, *EDGES)
    y = probit_axis("false negatives (%)", ticks, *EDGES)
    return {
        "xaxis": {**x, "constrain": "domain"},
        "yaxis": {**y, "constrain": "domain", "scaleanchor": "x"},
        "hovermode": "closest",
        "legend": {"x": 0.5, "xanchor": "center"},  # over the square
    }


def _traces(
    one: SystemEvaluation, scored: ScoredTrials, styles: Styles, has_band: bool, most: int
) -> list[Trace]:
    """Return what is drawn of a system on a list: a curve of at most `most` points, marks, a band."""
    target = scored.trials.target
    fpr, fnr, _ = metrics.det_curve(scored.scores, target)
    drawn = ndtri(np.clip([fpr, fnr], 1e-6, 1 - 1e-6))
    moved = np.diff(np.round(drawn, 2), axis=1, prepend=np.inf).any(axis=0)
    kept = np.flatnonzero(moved)
    kept = kept[thinned(kept, most)]
    rates = np.round(100 * np.stack([fpr[kept], fnr[kept]], 1), 3)
    curve = line(
        one.system,
        np.round(drawn[0, kept], 4),
        np.round(drawn[1, kept], 4),
        styles,
        customdata=rates,
        hovertemplate=f"{plotly_text(one.system)}<br>false positives %{{customdata[0]}} %"
        "<br>false negatives %{customdata[1]} %<extra></extra>",
    )
    eer = metrics.curve_eer(fpr, fnr) / 100
    marks = [
        (eer, eer, "circle-open", "EER"),
        (*min_dcf_point(fpr, fnr, 0.01), "square-open", "minDCF 0.01"),
        (*min_dcf_point(fpr, fnr, 0.05), "diamond-open", "minDCF 0.05"),
    ]
    band = _band(one, styles) if has_band else []
    return [*band, curve, _marks(one, marks, styles)]


def _marks(
    one: SystemEvaluation, marks: Sequence[tuple[float, float, str, str]], styles: Styles
) -> Trace:
    places = ndtri(np.clip([mark[:2] for mark in marks], EDGES[0], EDGES[1]))
    texts = [f"{what}: {100 * x:.2f} % / {100 * y:.2f} %" for x, y, _, what in marks]
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": one.system,
        "showlegend": False,
        "legendgroup": plotly_text(one.system),
        "x": places[:, 0],
        "y": places[:, 1],
        "customdata": np.round([[100 * x, 100 * y] for x, y, _, _ in marks], 3),
        "text": texts,
        "marker": {
            "color": styles.colour(one.system),
            "size": 9,
            "symbol": [mark[2] for mark in marks],
            "line": {"width": 2},
        },
        "hovertemplate": f"{plotly_text(one.system)}<br>%{{text}}<extra></extra>",
    }


def _band(one: SystemEvaluation, styles: Styles) -> list[Trace]:
    """Return the band as one closed line that is filled; nothing where there is none."""
    found = rows_of(one.curve or {})
    known = np.isfinite(found).all(1)
    if known.sum() < 2:
        return []
    x = ndtri(BAND_FPR[known])
    low, high = ndtri(np.clip(found[known], 1e-6, 1 - 1e-6)).T
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "meta": one.system,
            "legendgroup": plotly_text(one.system),
            "showlegend": False,
            "hoverinfo": "skip",
            "x": np.concatenate([x, x[::-1]]),
            "y": np.concatenate([low, high[::-1]]),
            "fill": "toself",
            "opacity": 0.18,
            "fillcolor": styles.colour(one.system),
            "line": {"width": 0},
        }
    ]


SECTION = Section("Detection error trade-off", 30, build)
