"""Error rates with their intervals, beside those of the untrained encoder."""

from __future__ import annotations

from collections.abc import Sequence

from speechssl.evaluation.verification.measures import MEASURES
from speechssl.report.page import untrusted
from speechssl.report.page.blocks import Block, Chart, Row, Table, Text, Trace, plotly_text
from speechssl.report.page.drawing import Styles
from speechssl.report.page.material import Material, SystemEvaluation
from speechssl.report.page.section import Section
from speechssl.report.results import format_measure


def build(material: Material) -> Sequence[Block]:
    """Return the table of all measures and a chart of the equal error rates."""
    if not material.evaluations:
        return []
    ordered = sorted(material.evaluations, key=lambda one: (one.results.trials, _eer(one)))
    blocks: list[Block] = [_table(ordered), _chart(ordered)]
    if not any(one.is_untrained for one in ordered):
        text = (
            "There is no untrained system among these. A rate that does not beat the untrained"
            " encoder is no result: evaluate RUN/untrained into eval/untrained, too."
        )
        blocks.append(Text(text, "warning"))
    return [*blocks, *_looked_at(material, ordered)]


def _looked_at(material: Material, evaluations: Sequence[SystemEvaluation]) -> list[Block]:
    """Return a warning for each list that a run was shown figures of while it trained."""
    warned: dict[str, dict[str, None]] = {}
    for one in evaluations:
        digest = one.results.results.get("trials_sha256")
        for run in material.runs:
            if digest is not None and digest in untrusted.items(run.about, "trials_looked_at"):
                warned.setdefault(one.results.trials, {})[run.name] = None
    blocks: list[Block] = []
    for trials, runs in warned.items():
        text = (
            f"{trials} was looked at during training (heldout.trials of {', '.join(runs)}): whoever"
            " chose settings by what was shown has chosen them on these trials."
        )
        blocks.append(Text(text, "warning"))
    return blocks


def _eer(one: SystemEvaluation) -> float:
    return float(one.results.results["eer"])


def _table(evaluations: Sequence[SystemEvaluation]) -> Table:
    shown = [m for m in MEASURES if any(m.name in one.results.results for one in evaluations)]
    head = ["trial list", "system", *(measure.title for measure in shown)]
    head += ["trials", "scoring", "labels used"]
    rows = []
    for one in evaluations:
        results = one.results.results
        cells = [one.results.trials, one.system + (" (floor)" if one.is_untrained else "")]
        cells += [format_measure(measure, results) for measure in shown]
        trials = results.get("trials")
        cells += [
            f"{trials:,}" if trials else "-",
            results.get("scoring") or "-",
            ", ".join(results.get("labels_used") or []) or "none",
        ]
        rows.append(Row(cells, one.system))
    return Table("Error rates [95 % interval over speakers]", head, rows)


def _chart(evaluations: Sequence[SystemEvaluation]) -> Chart:
    styles = Styles([one.system for one in evaluations])
    lists = list(dict.fromkeys(one.results.trials for one in evaluations))
    variants: dict[str, list[Trace]] = {}
    for trials in lists:
        of_list = [one for one in evaluations if one.results.trials == trials]
        variants[trials] = [_point(one, styles) for one in reversed(of_list)]
    most = max(len(traces) for traces in variants.values())
    return Chart(
        "Equal error rates",
        "Percent, with the 95 % interval over speakers; left is better.",
        variants,
        {
            "showlegend": False,
            "xaxis": {"title": {"text": "EER (%)"}, "rangemode": "tozero"},
            "yaxis": {"type": "category", "automargin": True},
        },
        height=110 + 28 * most,
    )


def _point(one: SystemEvaluation, styles: Styles) -> Trace:
    eer = _eer(one)
    interval = one.results.results.get("eer_interval") or [eer, eer]
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": one.system,
        "name": plotly_text(one.system),
        "x": [eer],
        "y": [plotly_text(one.system)],
        "marker": {
            "color": styles.colour(one.system),
            "size": 10,
            "symbol": "circle-open" if one.is_untrained else "circle",
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, interval[1] - eer)],
            "arrayminus": [max(0.0, eer - interval[0])],
        },
        "hovertemplate": "%{y}: %{x:.2f} %<extra></extra>",
    }


SECTION = Section("Error rates", 20, build)
