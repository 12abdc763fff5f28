"""Emotion and other labels: linear probes with speaker-disjoint folds."""

from speechssl.evaluation.classification.classify import evaluate

PART = evaluate
__all__ = ["PART", "evaluate"]
