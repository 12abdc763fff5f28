"""What counts as few or many directions: the rule of the diagnostics that are ranks."""

from __future__ import annotations

from speechssl import parts
from speechssl.interfaces import Diagnostic


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
    return {name: parts.find("diagnostics", name) for name in parts.names("diagnostics")}
