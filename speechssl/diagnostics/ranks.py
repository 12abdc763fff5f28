"""What counts as few or many directions: the rule of every diagnostic that is a rank."""

from __future__ import annotations

from speechssl import parts
from speechssl.interfaces import Diagnostic

COLLAPSED_SHARE = 0.05
"""Share of the possible directions below which a rank counts as collapsed."""

ONE_DIRECTION = 1.2
"""A rank below this is one direction and rounding, however few directions are possible."""


def max_rank(count: int, dim: int) -> int:
    """Return the directions that N centred embeddings of D dimensions can have: min(N - 1, D)."""
    return max(1, min(count - 1, dim))


def rank_collapsed(rank: float, count: int, dim: int) -> bool:
    """Return True if a rank is below 5 % of min(N - 1, D), or below 1.2."""
    return rank < max(ONE_DIRECTION, COLLAPSED_SHARE * max_rank(count, dim))


def healthy_ranks(count: int, dim: int) -> tuple[float, float]:
    """Return the lowest and highest healthy rank: a fifth of min(N - 1, D), and D."""
    return 0.2 * max_rank(count, dim), float(dim)


def diagnostics() -> dict[str, Diagnostic]:
    """Return every part of this folder by its name."""
    return {name: parts.find("diagnostics", name) for name in parts.names("diagnostics")}
