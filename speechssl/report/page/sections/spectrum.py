"""The spectrum of the embeddings, and what the label-free diagnostics say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from speechssl.data.vectors.files import read_sample
from speechssl.errors import UserError
from speechssl.report.page import untrusted
from speechssl.report.page.blocks import Block, Chart, Row, Table
from speechssl.report.page.drawing import Styles, line
from speechssl.report.page.material import Material, NamedFile
from speechssl.report.page.section import Section
from speechssl.report.spectra import spectrum

MOST_ROWS = 5000
"""Embeddings of a file that the spectrum is computed from."""

MOST_FILES = 24


def build(material: Material) -> Sequence[Block]:
    """Return the spectra of the files of embeddings, a menu for the sets, and the diagnostics."""
    blocks: list[Block] = []
    files = material.embeddings[:MOST_FILES]
    styles = Styles([file.name for file in files])
    variants: dict[str, list[Any]] = {}
    for file in files:
        values = material.attempt(partial(_spectrum, file, material.chosen.seed))
        if values is not None:
            numbers = np.arange(1, len(values) + 1)
            shown = np.round(values, 8)
            trace = line(file.name, numbers, shown, styles, hovertemplate="%{x}: %{y:.3g}")
            variants.setdefault(file.path.stem, []).append(trace)
    if variants:
        layout = {
            "xaxis": {"title": {"text": "dimension"}},
            "yaxis": {"title": {"text": "singular value / largest"}, "type": "log"},
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
    blocks: list[Block] = []
    for name, held in diagnoses.items():
        rows = []
        for figure, row in untrusted.mapping(held, "figures").items():
            if isinstance(row, dict):
                healthy = [untrusted.shown(untrusted.number(row, key)) for key in ("low", "high")]
                cells = [
                    figure,
                    untrusted.shown(untrusted.number(row, "value")),
                    untrusted.shown(untrusted.number(row, "untrained")),
                    " .. ".join(healthy),
                    untrusted.text(row, "verdict"),
                    untrusted.text(row, "tells"),
                ]
                rows.append(Row(cells))
        head = ["diagnostic", "value", "untrained", "healthy", "verdict", "what it tells"]
        caption = f"Diagnostics of {name}: {untrusted.text(held, 'verdict')}"
        blocks.append(Table(caption, head, rows))
    return blocks


SECTION = Section("Spectrum and diagnostics", 60, build)
