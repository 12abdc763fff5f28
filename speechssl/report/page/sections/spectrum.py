"""The spectrum of the embeddings, and what the label-free diagnostics say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from speechssl.data.vectors.files import read_sample
from speechssl.errors import UserError
from speechssl.report.page import untrusted
from speechssl.report.page.blocks import Block, Chart, Row, Table, Text
from speechssl.report.page.drawing import Styles, line, log_axis
from speechssl.report.page.material import Material, NamedFile
from speechssl.report.page.section import Section
from speechssl.report.spectra import SMALLEST_VALUE, spectrum

MOST_ROWS = 5000
"""Embeddings of a file that the spectrum is computed from."""

MOST_FILES = 24


def build(material: Material) -> Sequence[Block]:
    """Return the spectra of the files of embeddings, a menu for the sets, and the diagnostics."""
    blocks: list[Block] = []
    files = material.embeddings[:MOST_FILES]
    styles = Styles([file.name for file in files])
    variants: dict[str, list[Any]] = {}
    least = 1.0
    for file in files:
        values = material.attempt(partial(_spectrum, file, material.chosen.seed))
        if values is not None:
            numbers = np.arange(1, len(values) + 1)
            shown = np.round(values, 8)
            least = min(least, float(shown.min(initial=1.0)))
            trace = line(file.name, numbers, shown, styles, hovertemplate="%{x}: %{y:.3g}")
            variants.setdefault(file.path.stem, []).append(trace)
    if variants:
        layout = {
            "xaxis": {"title": {"text": "dimension"}},
            "yaxis": log_axis("singular value / largest", max(least, SMALLEST_VALUE), 1.0),
        }
        caption = (
            "Singular values of the centred embeddings, the largest at 1, as many as min(N - 1, D)."
            " An early fall is a collapse: few directions carry everything. Of files with more than"
            f" {MOST_ROWS:,} embeddings, so many are drawn by lot."
        )
        blocks.append(Chart("Spectrum of the embeddings", caption, variants, layout))
    blocks += _diagnoses(material.diagnoses)
    return blocks


def _spectrum(file: NamedFile, seed: int) -> Any:
    _, matrix = read_sample(file.path, MOST_ROWS, seed)
    if not np.isfinite(matrix).all():
        raise UserError(f"{file.path}: holds numbers that are not finite; embed again")
    if len(matrix) > MOST_ROWS:
        rows = np.random.default_rng(seed).permutation(len(matrix))[:MOST_ROWS]
        matrix = matrix[rows]
    return spectrum(matrix)


def _diagnoses(diagnoses: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Return the diagnostics: of one model a table of its figures, of several one row each."""
    if len(diagnoses) < 2:
        name, held = next(iter(diagnoses.items()), ("", {}))
        return _one(name, held) if held else []
    figures: dict[str, Mapping[str, Any]] = {}
    for held in diagnoses.values():
        for figure, row in untrusted.mapping(held, "figures").items():
            if isinstance(row, dict):
                figures.setdefault(figure, row)
    rows = []
    for name, held in diagnoses.items():
        own = untrusted.mapping(held, "figures")
        cells = [_value(untrusted.mapping(own, figure)) for figure in figures]
        rows.append(Row([name, _in_short(held), *cells]))
    meanings = []
    for figure, row in figures.items():
        meanings.append(Row([figure, _healthy(row), untrusted.text(row, "tells")]))
    caption = "Diagnostics (! to be watched, !! collapsed)"
    return [
        Table(caption, ["model", "verdict", *figures], rows),
        Table("What the diagnostics tell", ["diagnostic", "healthy", "what it tells"], meanings),
    ]


def _one(name: str, held: Mapping[str, Any]) -> list[Block]:
    rows = []
    for figure, row in untrusted.mapping(held, "figures").items():
        if isinstance(row, dict):
            cells = [
                figure,
                untrusted.shown(untrusted.number(row, "value")),
                untrusted.shown(untrusted.number(row, "untrained")),
                _healthy(row),
                untrusted.text(row, "verdict"),
                untrusted.text(row, "tells"),
            ]
            rows.append(Row(cells))
    head = ["diagnostic", "value", "untrained", "healthy", "verdict", "what it tells"]
    verdict = untrusted.text(held, "verdict")
    table = Table(f"Diagnostics of {name}: {_in_short(held)}", head, rows)
    is_said = verdict == _in_short(held)
    return [table] if is_said else [table, Text(f"{name}: {verdict}", "note")]


def _in_short(held: Mapping[str, Any]) -> str:
    """Return a verdict without the figures that it names."""
    verdict = untrusted.text(held, "verdict")
    return verdict.partition(" (")[0].partition(";")[0].partition(":")[0]


def _value(row: Mapping[str, Any]) -> str:
    marks = {"watch": " !", "collapsed": " !!"}
    value = untrusted.shown(untrusted.number(row, "value"), ".3g")
    return value + marks.get(untrusted.text(row, "verdict"), "")


def _healthy(row: Mapping[str, Any]) -> str:
    return " .. ".join(untrusted.shown(untrusted.number(row, key)) for key in ("low", "high"))


SECTION = Section("Spectrum and diagnostics", 60, build)
