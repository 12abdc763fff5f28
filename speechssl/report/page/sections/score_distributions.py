"""Scores of target and non-target trials, and the threshold of the equal error rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechssl import metrics
from speechssl.report.bins import histogram
from speechssl.report.page.blocks import Block, Chart, Trace
from speechssl.report.page.drawing import COLOURS
from speechssl.report.page.material import Material, ScoredTrials
from speechssl.report.page.section import Section


def build(material: Material) -> Sequence[Block]:
    """Return a chart with a menu of systems and trial lists."""
    variants: dict[str, list[Trace]] = {}
    for one in material.evaluations:
        if one.scored is not None:
            variants[f"{one.system}, {one.results.trials}"] = _traces(one.scored)
    if not variants:
        return []
    layout = {
        "barmode": "overlay",
        "bargap": 0,
        "xaxis": {"title": {"text": "score"}},
        "yaxis": {"title": {"text": "density"}, "rangemode": "tozero"},
    }
    caption = (
        "Each histogram has area 1; both have the same bins. The vertical line is the threshold at"
        " which both kinds of error are equally frequent."
    )
    return [Chart("Scores", caption, variants, layout)]


def _traces(scored: ScoredTrials) -> list[Trace]:
    target = scored.trials.target
    eer, threshold = metrics.eer_point(scored.scores, target)
    edges, densities = histogram(scored.scores, [~target, target])
    traces: list[Trace] = []
    for name, colour, density in zip(("non-target", "target"), (COLOURS[1], COLOURS[0]), densities):
        count = int(target.sum() if name == "target" else (~target).sum())
        traces.append(
            {
                "type": "bar",
                "name": f"{name} ({count:,} trials)",
                "x": (edges[:-1] + edges[1:]) / 2,
                "y": density,
                "width": np.diff(edges),
                "marker": {"color": colour, "opacity": 0.6, "line": {"width": 0}},
                "hovertemplate": "%{x:.3f}: %{y:.3f}<extra></extra>",
            }
        )
    top = float(max(density.max() for density in densities))
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"EER {eer:.2f} % at {threshold:.3g}",
            "x": [threshold, threshold],
            "y": [0, 1.05 * top],
            "line": {"color": "#808080", "dash": "dash", "width": 2},
        }
    )
    return traces


SECTION = Section("Score distributions", 40, build)
