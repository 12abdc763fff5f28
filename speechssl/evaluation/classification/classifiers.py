"""The classifiers that a probe may be: scikit-learn's, each with a grid of its one setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from speechssl import metrics
from speechssl.errors import UserError
from speechssl.evaluation.classification.folds import Names

Rows = NDArray[np.float64]


class Kind(NamedTuple):
    """A kind of classifier.

    Attributes:
        make: makes one from its setting, for so many training rows.
        grid: settings to choose from, simplest model first.
        balanced: whether classes weigh alike in its training.
    """

    make: Callable[[Any, int], Any]
    grid: tuple[Any, ...]
    balanced: bool = False


class ShrunkLDA(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`` predicts.

    By a Cholesky decomposition of the shrunk covariance within classes, where that takes singular
    values: with 1,536 dimensions a fit takes a fifth of a second in place of seconds, and a probe
    makes a hundred and more.
    """

    def __init__(self, shrinkage: float) -> None:
        self.shrinkage = shrinkage

    def fit(self, x: Rows, truth: Names) -> ShrunkLDA:
        """Fit to rows (N, D) and their classes (N,)."""
        from scipy.linalg import solve

        self.classes_, index, counts = np.unique(truth, return_inverse=True, return_counts=True)
        means = np.zeros((len(counts), x.shape[1]))
        np.add.at(means, index, x)
        means /= counts[:, None]
        deviation = x - means[index]
        within = (1 - self.shrinkage) * (deviation.T @ deviation) / len(x)
        mean_eigenvalue = (deviation**2).sum() / deviation.size
        within[np.diag_indices_from(within)] += self.shrinkage * mean_eigenvalue + 1e-12
        self.weights = solve(within, means.T, assume_a="pos")
        self.offset = np.log(counts / len(x)) - 0.5 * (means * self.weights.T).sum(1)
        return self

    def predict(self, x: Rows) -> Names:
        """Return the classes (N,) of rows (N, D)."""
        scores = x @ self.weights + self.offset
        chosen: Names = self.classes_[scores.argmax(1)]
        return chosen


def kinds(balanced: bool, seed: int) -> dict[str, Kind]:
    """Return every kind of classifier by name.

    Args:
        balanced: weight classes by the inverse of their frequency, where the classifier can (not
            knn, lda, mlp).
        seed: of svm and mlp.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import LinearSVC

    weight = "balanced" if balanced else None

    def logistic(c: float, _rows: int) -> Any:
        return LogisticRegression(C=c, max_iter=500, class_weight=weight)

    def svm(c: float, _rows: int) -> Any:
        return LinearSVC(C=c, class_weight=weight, random_state=seed)

    def knn(neighbours: int, rows: int) -> Any:
        return KNeighborsClassifier(min(neighbours, rows))

    def lda(shrinkage: float, _rows: int) -> Any:
        return ShrunkLDA(shrinkage)

    def mlp(alpha: float, _rows: int) -> Any:
        return MLPClassifier(
            (64,), alpha=alpha, max_iter=300, early_stopping=True, random_state=seed
        )

    penalties = tuple(10.0**k for k in range(-4, 2))
    return {
        "logistic": Kind(logistic, penalties, balanced),
        "svm": Kind(svm, penalties, balanced),
        "knn": Kind(knn, (31, 15, 7, 3, 1)),
        "lda": Kind(lda, (0.9, 0.5, 0.2, 0.1, 0.01)),
        "mlp": Kind(mlp, (10.0, 1.0, 0.1, 0.01)),
    }


def fitted(kind: Kind, setting: Any, x: Rows, truth: Names) -> Any:
    """Return standardisation and classifier, fitted together to rows (N, D) and classes (N,).

    Raises:
        UserError: there are too few rows for this kind of classifier.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), kind.make(setting, len(x)))
    try:
        return pipeline.fit(x, truth)
    except ValueError as error:  # the MLP holds out a tenth of the rows, some of each class
        raise UserError(
            f"classification: {len(x)} training utterances are too few for this classifier"
            f" ({error}); take logistic"
        ) from error


def choose(kind: Kind, x: Rows, truth: Names, group: Names) -> Any:
    """Return the setting with the best UAR over folds of groups within the training data.

    Of equals the simplest is taken; with one group only, the middle of the grid.

    Args:
        kind: of classifier.
        x: (N, D) training rows.
        truth: (N,) their classes.
        group: (N,) their groups.
    """
    from sklearn.model_selection import GroupKFold

    count = min(4, len(np.unique(group)))
    if count < 2:
        return kind.grid[len(kind.grid) // 2]
    splits = list(GroupKFold(count).split(x, truth, group))
    best = -1.0
    chosen = kind.grid[0]
    for setting in kind.grid:
        scores = []
        for train, test in splits:
            if len(np.unique(truth[train])) > 1:
                predicted = fitted(kind, setting, x[train], truth[train]).predict(x[test])
                scores.append(metrics.uar(truth[test], predicted))
        if scores and float(np.mean(scores)) > best + 1e-9:
            best = float(np.mean(scores))
            chosen = setting
    return chosen
