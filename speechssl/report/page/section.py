"""What a section of the page is: a module of `sections/` that names ``SECTION``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from speechssl.report.page import sections as folder
from speechssl.report.page.blocks import Block
from speechssl.report.page.material import Material


@dataclass(frozen=True)
class Section:
    """A section.

    Attributes:
        title: its heading.
        order: sections stand on the page by this number, lowest first.
        build: returns its blocks from what the experiments hold; none: the section is left out.
    """

    title: str
    order: int
    build: Callable[[Material], Sequence[Block]]


def sections() -> dict[str, Section]:
    """Return name -> section, in the order of the page, from every module of `sections/`."""
    found: dict[str, Section] = {}
    for module in pkgutil.iter_modules(folder.__path__, prefix=f"{folder.__name__}."):
        loaded = importlib.import_module(module.name)
        found[module.name.rpartition(".")[2]] = loaded.SECTION
    return dict(sorted(found.items(), key=lambda pair: (pair[1].order, pair[0])))
