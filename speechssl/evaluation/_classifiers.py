"""The classifiers a probe may be: scikit-learn's, each with the grid of the one setting that is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """How to make a classifier from its setting, the settings to choose from, simplest first, and whether
    classes weigh alike in its training."""

    make: Callable[[Any], Any]
    grid: tuple[Any, ...]
    balanced: bool = False


def kinds(balanced: bool, seed: int) -> dict[str, Kind]:
    """Every classifier by name; ``balanced`` weights classes by the inverse of their frequency, where the
    classifier can (not knn, lda, mlp)."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import LinearSVC

    weights = "balanced" if balanced else None
    penalties = tuple(10.0**k for k in range(-4, 2))
    return {
        "logistic": Kind(
            lambda c: LogisticRegression(C=c, max_iter=500, class_weight=weights), penalties, balanced
        ),
        "svm": Kind(lambda c: LinearSVC(C=c, class_weight=weights, random_state=seed), penalties, balanced),
        "knn": Kind(lambda k: KNeighborsClassifier(k), (31, 15, 7, 3, 1)),
        "lda": Kind(
            lambda s: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s), (0.9, 0.5, 0.2, 0.1, 0.01)
        ),
        "mlp": Kind(
            lambda a: MLPClassifier((64,), alpha=a, max_iter=300, early_stopping=True, random_state=seed),
            (10.0, 1.0, 0.1, 0.01),
        ),
    }
