"""What a section of the page is made of: text, tables, charts and the like.

A kind of block is a dataclass with the name of its template (`templates/NAME.html`) and, if its part
of page.js needs figures, a method `data` that returns them as JSON. Strings are given as they are:
the template escapes them for HTML, and `plotly_text` for the small markup that Plotly knows.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from speechssl.text import printable

LONGEST_TEXT = 120
"""Characters of an id or label that are shown; the middle of longer ones is left out."""

LONGEST_TABLE = 30
"""Rows of a table that is shown at once; longer ones open with a click."""

Trace = dict[str, Any]
"""A trace of Plotly; `meta` names the run or system that it belongs to."""


class Row(NamedTuple):
    """A row of a table, and the run or system that it is hidden with."""

    cells: Sequence[str]
    system: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    template: ClassVar[str] = "text.html"
    text: str
    kind: Literal["plain", "note", "warning"] = "plain"

    def data(self) -> Any:
        """Return nothing: it is HTML alone."""
        return None


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: what it shows.
        head: headings.
        rows: cells, as many as headings.
    """

    template: ClassVar[str] = "table.html"
    caption: str
    head: Sequence[str]
    rows: Sequence[Row]

    @property
    def is_long(self) -> bool:
        """Whether it is folded away at first."""
        return len(self.rows) > LONGEST_TABLE

    def data(self) -> Any:
        """Return nothing: it is HTML alone."""
        return None


@dataclass(frozen=True)
class Chart:
    """A chart that Plotly draws.

    Attributes:
        title: what it shows, in a few words.
        caption: how to read it; also what is read aloud in its place.
        variants: name -> traces; a menu chooses among several.
        layout: of Plotly, beyond what all charts share.
        height: pixels.
        width: ``full`` or ``half`` of the page.
    """

    template: ClassVar[str] = "chart.html"
    title: str
    caption: str
    variants: Mapping[str, Sequence[Trace]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 380
    width: Literal["full", "half"] = "full"

    def data(self) -> Any:
        """Return the traces of each variant in the order of the menu, and the layout."""
        # No object: JavaScript puts keys that are whole numbers first, and in another order.
        variants = list(self.variants.values())
        return {"variants": variants, "layout": self.layout, "height": self.height}


@dataclass(frozen=True)
class EmbeddingMap:
    """Points in the plane, coloured by one of several fields; a click plays the utterance.

    Attributes:
        title: what it shows.
        caption: how it was made.
        maps: name -> ``{ids, x, y, clips, fields: {name: {names, codes}}}``; codes are places in
            names, clips the keys of the clips ("": none).
    """

    template: ClassVar[str] = "map.html"
    title: str
    caption: str
    maps: Mapping[str, Mapping[str, Any]]

    def data(self) -> Any:
        """Return the points of each map in the order of the menu, as `Chart.data`."""
        return {"maps": list(self.maps.values())}


@dataclass(frozen=True)
class Side:
    """One utterance of a trial: id, key of its clip ("": none), spectrogram as a data address."""

    name: str
    clip: str
    picture: str


@dataclass(frozen=True)
class Pair:
    """A trial to listen to."""

    heading: str
    enrol: Side
    test: Side


@dataclass(frozen=True)
class Pairs:
    """Trials side by side."""

    template: ClassVar[str] = "pairs.html"
    title: str
    caption: str
    pairs: Sequence[Pair]

    def data(self) -> Any:
        """Return nothing: it is HTML alone."""
        return None


@dataclass(frozen=True)
class Step:
    """A step of a flow: its name, lines about it, and whether it was chosen."""

    name: str
    lines: Sequence[str]
    chosen: bool = False


@dataclass(frozen=True)
class Flow:
    """Steps that follow each other; `links[i]` stands between step i and the next."""

    template: ClassVar[str] = "flow.html"
    title: str
    caption: str
    steps: Sequence[Step]
    links: Sequence[str]

    def data(self) -> Any:
        """Return nothing: it is HTML alone."""
        return None


Block = Text | Table | Chart | EmbeddingMap | Pairs | Flow


def shortened(text: str, most: int = LONGEST_TEXT) -> str:
    """Return text on one line, with at most `most` characters, its ends kept."""
    text = printable(text)
    if len(text) <= most:
        return text
    kept = most // 2 - 1
    return f"{text[:kept]} … {text[-kept:]}"


def plotly_text(text: str) -> str:
    """Return text as Plotly shows it: `<b>`, `<a>` and entities in it are no markup."""
    return html.escape(shortened(text), quote=False)
