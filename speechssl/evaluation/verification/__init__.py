"""Speaker verification: scores of a trial list, error rates and their intervals."""

from speechssl.evaluation.verification.verify import evaluate

PART = evaluate
__all__ = ["PART", "evaluate"]
