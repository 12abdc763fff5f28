"""Confusion of the classes, for every classification that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.report.page import untrusted
from speechssl.report.page.blocks import (
    Block,
    Chart,
    Row,
    Table,
    Text,
    Trace,
    plotly_text,
    shortened,
)
from speechssl.report.page.material import Material
from speechssl.report.page.section import Section

MOST_CLASSES = 60
"""Classes of a confusion that is drawn."""

LONGEST_NAME = 24
"""Characters of a class that its axis shows; a longer name would leave no room for the table."""

MEASURES = {"micro_f1": "micro F1", "macro_f1": "macro F1", "uar": "UAR"}


def build(material: Material) -> Sequence[Block]:
    """Return the table of the measures and the confusion tables, a menu for several."""
    rows = []
    notes: list[Block] = []
    variants: dict[str, list[Trace]] = {}
    for name, held in material.classifications.items():
        labels = [str(label) for label in untrusted.items(held, "labels")]
        counts = _counts(held, len(labels))
        if counts is None:
            continue
        cells = [_measure(held, key) for key in MEASURES]
        rows.append(Row([name, *cells, untrusted.text(held, "classifier")], name))
        if len(labels) > MOST_CLASSES:
            why = f"{len(labels)} classes; the confusion of at most {MOST_CLASSES} is drawn."
            notes.append(Text(f"{name}: {why}", "note"))
        else:
            variants[name] = [_trace(labels, counts, untrusted.mapping(held, "class_f1"))]
    if not rows:
        return []
    head = ["system", *MEASURES.values(), "classifier"]
    blocks: list[Block] = [Table("Classification [95 % interval]", head, rows)]
    if variants:
        blocks.append(_chart(variants))
    return blocks + notes


def _chart(variants: Mapping[str, Sequence[Trace]]) -> Chart:
    layout = {
        "xaxis": {"title": {"text": "predicted"}, "type": "category", "automargin": True},
        "yaxis": {
            "title": {"text": "true"},
            "type": "category",
            "automargin": True,
            "autorange": "reversed",
        },
    }
    caption = "Share of the true class (a row sums to 100 %), below it the number of utterances."
    largest = max(len(traces[0]["y"]) for traces in variants.values())
    height = min(800, 150 + 52 * largest)
    return Chart("Confusion of the classes", caption, variants, layout, height=height)


def _measure(held: Mapping[str, Any], key: str) -> str:
    text = untrusted.shown(untrusted.number(held, key), ".3f")
    ends = [untrusted.finite(end) for end in untrusted.items(held, f"{key}_interval")]
    if len(ends) == 2 and None not in ends:
        text += f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return text


def _counts(held: Mapping[str, Any], classes: int) -> NDArray[np.float64] | None:
    """Return the confusion (C, C) of a results file; None if it is no such table."""
    try:
        counts = np.array(untrusted.items(held, "confusion"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    is_square = counts.shape == (classes, classes)
    if not classes or not is_square or not np.isfinite(counts).all() or (counts < 0).any():
        return None
    return counts


def _axis_names(labels: Sequence[str]) -> list[str]:
    """Return what the axes call each class; those that would be alike get a number."""
    names: list[str] = []
    for number, label in enumerate(labels, 1):
        name = plotly_text(shortened(label, LONGEST_NAME))
        names.append(f"{name} ({number})" if name in names else name)
    return names


def _trace(labels: Sequence[str], counts: NDArray[np.float64], f1: Mapping[str, Any]) -> Trace:
    """Return a confusion (C, C) as a heat map; `f1` is that of each class, where it is known."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = _axis_names(labels)
    rows = []
    for label, name in zip(labels, names, strict=True):
        value = untrusted.number(f1, label)
        rows.append(name if value is None else f"{name} (F1 {value:.2f})")
    texts = []
    for shares_of_class, counts_of_class in zip(share, counts, strict=True):
        cells = zip(shares_of_class, counts_of_class, strict=True)
        texts.append([f"{100 * part:.0f} %<br>{count:g}" for part, count in cells])
    return {
        "type": "heatmap",
        "x": names,
        "y": rows,
        "z": np.round(share, 4),
        "zmin": 0,
        "zmax": 1,
        "text": texts,
        "texttemplate": "%{text}" if len(labels) <= 12 else "",
        "colorscale": [[0, "#f4f8fc"], [0.5, "#6aaed6"], [1, "#08306b"]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "true %{y}<br>predicted %{x}<br>%{text}<extra></extra>",
    }


SECTION = Section("Classification", 90, build)
