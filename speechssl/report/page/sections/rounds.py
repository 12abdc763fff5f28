"""The rounds of pseudo-labelling as a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speechssl.report.page import untrusted
from speechssl.report.page.blocks import Block, Chart, Flow, Step, Trace
from speechssl.report.page.drawing import Styles, line
from speechssl.report.page.material import Material
from speechssl.report.page.section import Section

FIGURES = {
    "clusters": "clusters",
    "kept": "utterances kept",
    "cohesion": "cohesion",
    "silhouette": "silhouette",
}
"""Keys of a round's clusters, and how they are named."""

CURVES = {
    "agreement": "agreement with the round before (NMI)",
    "silhouette": "silhouette",
    "cohesion": "cohesion",
}


def build(material: Material) -> Sequence[Block]:
    """Return a flow and a chart of the rounds, for each pseudo-labelling that was done."""
    blocks: list[Block] = []
    for name, held in material.rounds.items():
        rounds = [one for one in untrusted.items(held, "rounds") if isinstance(one, dict)]
        if rounds:
            blocks.append(_flow(name, held, rounds))
            if len(rounds) > 1:
                blocks.append(_chart(rounds))
    return blocks


def _flow(name: str, held: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> Flow:
    chosen = untrusted.number(held, "chosen")
    steps = []
    links = []
    for place, one in enumerate(rounds):
        figures = untrusted.mapping(one, "clusters")
        lines = []
        for key, word in FIGURES.items():
            lines.append(f"{word}: {untrusted.shown(untrusted.number(figures, key))}")
        for key in ("nmi", "purity"):
            if untrusted.number(figures, key) is not None:
                lines.append(f"{key}: {untrusted.shown(untrusted.number(figures, key))}")
        eer = untrusted.number(one, "heldout_eer")
        if eer is not None:
            lines.append(f"EER on held-out trials: {eer:.2f} %")
        title = "round 0: the start" if place == 0 else f"round {place}"
        steps.append(Step(title, lines, chosen == place))
        if place:
            agreement = untrusted.shown(untrusted.number(one, "agreement"), ".3f")
            links.append(f"train on the clusters; agreement {agreement}")
    labels = ", ".join(str(one) for one in untrusted.items(held, "labels_used")) or "none"
    caption = (
        f"{name}: embed, cluster, train on the clusters, and again. Stopped by:"
        f" {untrusted.text(held, 'stopped_by')}; labels used: {labels}."
    )
    return Flow("Rounds of pseudo-labelling", caption, steps, links)


def _chart(rounds: Sequence[Mapping[str, Any]]) -> Chart:
    styles = Styles(list(CURVES.values()))
    traces: list[Trace] = []
    for key, word in CURVES.items():
        values = []
        for one in rounds:
            held = one if key == "agreement" else untrusted.mapping(one, "clusters")
            values.append(untrusted.number(held, key))
        if any(value is not None for value in values):
            numbers = list(range(len(values)))
            trace = line(word, numbers, np.array(values, float), styles, mode="lines+markers")
            trace["meta"] = ""
            traces.append(trace)
    layout = {"xaxis": {"title": {"text": "round"}, "dtick": 1}}
    caption = "Agreement near 1: the clusters no longer change, and a further round changes little."
    return Chart("What changes from round to round", caption, {"": traces}, layout, height=300)


SECTION = Section("Pseudo-labels", 100, build)
