"""What could not be read, so that nobody takes the page for complete."""

from __future__ import annotations

from collections.abc import Sequence

from speechssl.report.page.blocks import Block, Row, Table
from speechssl.report.page.material import Material
from speechssl.report.page.section import Section

MOST = 100


def build(material: Material) -> Sequence[Block]:
    """Return the files and recordings that were left out, where there are any."""
    reasons = list(dict.fromkeys(material.notes))
    reasons += [f"{name}: {reason}" for name, reason in material.clips.failed.items()]
    if not reasons:
        return []
    caption = f"Files that could not be shown: {len(reasons)}"
    return [Table(caption, ["file and reason"], [Row([reason]) for reason in reasons[:MOST]])]


SECTION = Section("Left out", 1000, build)
