"""Speaker verification: scores of a trial list, error rates and their intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PART: Callable[..., dict[str, Any]]
"""`verify.evaluate`, imported when it is asked for: scipy's linear algebra takes a while."""


def __getattr__(name: str) -> Any:
    """Import the task at its first use."""
    if name in ("PART", "evaluate"):
        from speechssl.evaluation.verification.verify import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
