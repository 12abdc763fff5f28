"""What could not be read, so that nobody takes the page for complete."""

from __future__ import annotations

from collections.abc import Sequence

from speechssl.report.page.blocks import Block, Text, shortened
from speechssl.report.page.material import Material
from speechssl.report.page.section import Section

MOST = 100

LONGEST_REASON = 600
"""Characters of a reason that are shown."""


def build(material: Material) -> Sequence[Block]:
    """Return the files and recordings that were left out, where there are any."""
    reasons = list(dict.fromkeys(material.notes))
    reasons += [f"{name}: {reason}" for name, reason in material.clips.failed.items()]
    if not reasons:
        return []
    blocks = [Text(f"Files that could not be shown: {len(reasons)}")]
    for reason in reasons[:MOST]:
        blocks.append(Text(shortened(reason, LONGEST_REASON), "note"))
    return blocks


SECTION = Section("Left out", 1000, build)
