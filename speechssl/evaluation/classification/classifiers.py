"""The classifiers a probe may be: scikit-learn's, each with the grid of the one setting that is
chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from speechssl import metrics
from speechssl.evaluation.classification.folds import Names


class Kind(NamedTuple):
    """How to make a classifier from its setting, the settings to choose from, simplest first, and
    whether classes weigh alike in its training.
    """

    make: Callable[[Any], Any]
    grid: tuple[Any, ...]
    balanced: bool = False


class ShrunkLDA(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`` predicts.

    By a Cholesky decomposition of the shrunk covariance within classes, where that takes singular
    values: of 1,536 dimensions a fit is a fifth of a second in place of seconds, and a probe makes
    a hundred and more.
    """

    def __init__(self, shrinkage: float) -> None:
        self.shrinkage = shrinkage

    def fit(self, x: NDArray[np.float64], truth: Names) -> ShrunkLDA:
        """Rows (N, D) and their classes (N,)."""
        from scipy.linalg import solve

        self.classes_, index, counts = np.unique(truth, return_inverse=True, return_counts=True)
        means = np.zeros((len(counts), x.shape[1]))
        np.add.at(means, index, x)
        means /= counts[:, None]
        deviation = x - means[index]
        within = (1 - self.shrinkage) * (deviation.T @ deviation) / len(x)
        own = self.shrinkage * (deviation**2).sum() / deviation.size  # the mean of its eigenvalues
        within[np.diag_indices_from(within)] += own + 1e-12
        self.weights = solve(within, means.T, assume_a="pos")
        self.offset = np.log(counts / len(x)) - 0.5 * (means * self.weights.T).sum(1)
        return self

    def predict(self, x: NDArray[np.float64]) -> Names:
        """Classes (N,) of rows (N, D)."""
        chosen: Names = self.classes_[(x @ self.weights + self.offset).argmax(1)]
        return chosen


def kinds(balanced: bool, seed: int) -> dict[str, Kind]:
    """Every classifier by name; ``balanced`` weights classes by the inverse of their frequency,
    where the classifier can (not knn, lda, mlp).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import LinearSVC

    weights = "balanced" if balanced else None
    penalties = tuple(10.0**k for k in range(-4, 2))
    return {
        "logistic": Kind(
            lambda c: LogisticRegression(C=c, max_iter=500, class_weight=weights),
            penalties,
            balanced,
        ),
        "svm": Kind(
            lambda c: LinearSVC(C=c, class_weight=weights, random_state=seed), penalties, balanced
        ),
        "knn": Kind(lambda k: KNeighborsClassifier(k), (31, 15, 7, 3, 1)),
        "lda": Kind(ShrunkLDA, (0.9, 0.5, 0.2, 0.1, 0.01)),
        "mlp": Kind(
            lambda a: MLPClassifier(
                (64,), alpha=a, max_iter=300, early_stopping=True, random_state=seed
            ),
            (10.0, 1.0, 0.1, 0.01),
        ),
    }


def fitted(kind: Kind, setting: Any, x: NDArray[np.float64], truth: Names) -> Any:
    """Standardisation and classifier, fitted together."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), kind.make(setting)).fit(x, truth)


def choose(kind: Kind, x: NDArray[np.float64], truth: Names, group: Names) -> Any:
    """The setting with the best UAR over folds of groups within the training data; the simplest of
    equals.
    """
    from sklearn.model_selection import GroupKFold

    count = min(4, len(np.unique(group)))
    if count < 2:
        return kind.grid[len(kind.grid) // 2]
    splits = list(GroupKFold(count).split(x, truth, group))
    best, chosen = -1.0, kind.grid[0]
    for setting in kind.grid:
        scores = [
            metrics.uar(truth[test], fitted(kind, setting, x[train], truth[train]).predict(x[test]))
            for train, test in splits
            if len(np.unique(truth[train])) > 1
        ]
        if scores and float(np.mean(scores)) > best + 1e-9:
            best, chosen = float(np.mean(scores)), setting
    return chosen
