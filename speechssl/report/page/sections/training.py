"""Curves of the runs' logs, with the alarms of the collapse monitor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from speechssl.report.page import untrusted
from speechssl.report.page.blocks import Block, Chart, Row, Table, Text, Trace, plotly_text
from speechssl.report.page.drawing import Styles, line, thinned
from speechssl.report.page.material import Material, Run
from speechssl.report.page.section import Section

FIGURES = {
    "loss": "Loss",
    "heldout_eer": "EER (%) of held-out trials, plain cosines: looked at, not decided by",
    "heldout_eer_centred": "EER (%) of held-out trials, embeddings less a mean of others",
    "teacher_entropy": "Entropy of the teacher's assignment (nats): 0 and ln K are collapses",
    "kl": "KL divergence of student and teacher (nats): 0 is a collapse",
    "effective_rank": "Effective rank of the embeddings: higher is better",
    "heldout_effective_rank": "Effective rank of held-out embeddings",
    "rankme": "RankMe of the embeddings",
    "projection_rank": "Effective rank of the projections",
    "centre_norm": "Norm of the mean embedding: 1 is a collapse",
    "uniformity": "Uniformity: 0 is a collapse, lower is more even",
    "heldout_uniformity": "Uniformity of held-out embeddings",
    "lr": "Learning rate",
    "gradient_norm": "Norm of the gradient",
    "data_wait": "Share of the time that was spent waiting for data",
    "utterances_per_second": "Utterances per second",
}
"""Keys of log.jsonl that have a chart, and its title."""

RANGES: dict[str, dict[str, Any]] = {
    "teacher_entropy": {"rangemode": "tozero"},
    "kl": {"rangemode": "tozero"},
    "heldout_eer": {"rangemode": "tozero"},
    "heldout_eer_centred": {"rangemode": "tozero"},
    "effective_rank": {"rangemode": "tozero"},
    "heldout_effective_rank": {"rangemode": "tozero"},
    "rankme": {"rangemode": "tozero"},
    "projection_rank": {"rangemode": "tozero"},
    "centre_norm": {"range": [0, 1.02]},
    "lr": {"rangemode": "tozero", "exponentformat": "e"},
    "gradient_norm": {"rangemode": "tozero"},
    "data_wait": {"range": [0, 1.02], "tickformat": ".0%"},
    "utterances_per_second": {"rangemode": "tozero"},
}
"""Axes of figures that have natural ends: a small change then looks small."""

POINTS = 800
"""Most points of a curve; of longer logs, evenly spaced ones are drawn."""


def build(material: Material) -> Sequence[Block]:
    """Return a chart a figure, and the table of the alarms."""
    runs = [run for run in material.runs if run.log]
    if not runs:
        return []
    styles = Styles([run.name for run in runs])
    blocks: list[Block] = []
    alarms = _alarms(runs)
    for key, title in FIGURES.items():
        traces = _curves(key, runs, styles)
        if traces:
            traces += _marks(key, runs, styles)
            caption = "A cross is an alarm of the collapse monitor." if alarms else ""
            blocks.append(
                Chart(
                    title,
                    caption,
                    {"": traces},
                    {
                        "xaxis": {"title": {"text": "optimiser step"}},
                        "yaxis": RANGES.get(key, {}),
                        "hovermode": "x unified",
                    },
                    height=300,
                    width="half",
                )
            )
    if alarms:
        head = ["run", "step", "what was seen", "likely cause", "what helps"]
        blocks.append(Table("Alarms of the collapse monitor", head, alarms))
    else:
        blocks.append(Text("The collapse monitor raised no alarm.", "note"))
    return blocks


def _curves(key: str, runs: Sequence[Run], styles: Styles) -> list[Trace]:
    traces = []
    for run in runs:
        steps = []
        values = []
        for row in run.log:
            step = untrusted.number(row, "step")
            value = untrusted.number(row, key)
            if step is not None and value is not None:
                steps.append(step)
                values.append(value)
        if values:
            kept = thinned(np.array(steps), POINTS)
            x = np.array(steps)[kept]
            y = np.array(values)[kept]
            traces.append(line(run.name, x, y, styles, hovertemplate="%{y:.4g}"))
    return traces


def _marks(key: str, runs: Sequence[Run], styles: Styles) -> list[Trace]:
    """Return a cross at each alarm, at the height of the last value before it."""
    traces: list[Trace] = []
    for run in runs:
        steps = []
        heights = []
        texts = []
        height = None
        for row in run.log:
            value = untrusted.number(row, key)
            height = height if value is None else value
            for alarm in untrusted.items(row, "alarms"):
                steps.append(row["step"])
                heights.append(height)
                texts.append(plotly_text(_parts(alarm)[0]))
        if steps:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "meta": run.name,
                    "showlegend": False,
                    "x": steps,
                    "y": heights,
                    "text": texts,
                    "marker": {"symbol": "x", "size": 10, "color": styles.colour(run.name)},
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    return traces


def _alarms(runs: Sequence[Run]) -> list[Row]:
    rows = []
    for run in runs:
        for row in run.log:
            for alarm in untrusted.items(row, "alarms"):
                step = untrusted.shown(untrusted.number(row, "step"), "g")
                rows.append(Row([run.name, step, *_parts(alarm)], run.name))
    return rows


def _parts(alarm: Any) -> tuple[str, str, str]:
    """Return symptom, cause and remedy of a line of `diagnostics.monitor.Alarm`."""
    text = str(alarm)[:2000].removeprefix("collapse alarm: ")
    symptom, _, rest = text.partition("; likely cause: ")
    cause, _, remedy = rest.partition("; remedy: ")
    return symptom, cause or "-", remedy or "-"


SECTION = Section("Training", 50, build)
