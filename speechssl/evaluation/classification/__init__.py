"""Emotion and other labels: probes with speaker-disjoint folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PART: Callable[..., Any]
"""`classify.evaluate`, imported when it is asked for: scikit-learn takes a while."""


def __getattr__(name: str) -> Any:
    """Import the task at its first use."""
    if name in ("PART", "evaluate"):
        from speechssl.evaluation.classification.classify import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
