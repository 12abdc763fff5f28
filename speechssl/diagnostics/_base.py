"""What a diagnostic is: a function of embeddings, the range in which it is healthy, and what it tells."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from speechssl import config


@dataclass(frozen=True)
class Diagnostic:
    """One figure of a set of embeddings.

    Attributes:
        compute: (N, D) embeddings, or (V, N, D) views of N utterances where ``needs`` is ``views``, to a
            number. NaN where it is undefined.
        healthy: lowest and highest healthy value for N embeddings of D dimensions.
        collapsed: True where a value, for N and D, means collapse.
        tells: one line, for the table.
        better: whether lower or higher is better when models are ranked without labels; none: neither.
        needs: what ``compute`` takes.
    """

    compute: Callable[[Tensor], float]
    healthy: Callable[[int, int], tuple[float, float]]
    collapsed: Callable[[float, int, int], bool]
    tells: str
    better: Literal["lower", "higher"] | None = None
    needs: Literal["embeddings", "views"] = "embeddings"

    def verdict(self, value: float, count: int, dim: int) -> str:
        """``healthy``, ``watch``, ``collapsed`` or ``undefined``."""
        if value != value:
            return "undefined"
        if self.collapsed(value, count, dim):
            return "collapsed"
        low, high = self.healthy(count, dim)
        return "healthy" if low <= value <= high else "watch"


def directions(count: int, dim: int) -> int:
    """Directions that N centred embeddings of D dimensions can have."""
    return max(1, min(count - 1, dim))


def few(value: float, count: int, dim: int) -> bool:
    """Under 5 % of the directions there are, or next to one alone."""
    return value < max(1.2, 0.05 * directions(count, dim))


def many(count: int, dim: int) -> tuple[float, float]:
    """At least a fifth of the directions there are."""
    return 0.2 * directions(count, dim), float(dim)


def diagnostics() -> dict[str, Diagnostic]:
    """Every diagnostic of this folder that is a figure of embeddings, by name."""
    found = {}
    for name in config.names("diagnostics"):
        part = getattr(importlib.import_module(f"speechssl.diagnostics.{name}"), "PART", None)
        if isinstance(part, Diagnostic):
            found[name] = part
    return found
