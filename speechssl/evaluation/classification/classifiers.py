"""The classifiers that a probe may be: scikit-learn's, each with a grid of its one setting."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin

from speechssl import metrics
from speechssl.evaluation.classification.folds import Names

Rows = NDArray[np.float64]


class Kind(NamedTuple):
    """A kind of classifier.

    Attributes:
        classifier: a template, which is cloned.
        parameter: the name of its setting.
        grid: values of the setting to choose from, simplest model first.
        balanced: whether classes weigh alike in its training.
        in_row_space: whether its weights lie in the space that the training rows span, as those of a
            linear classifier with an L2 penalty do.
    """

    classifier: Any
    parameter: str
    grid: tuple[Any, ...]
    balanced: bool = False
    in_row_space: bool = False


class RowSpace(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Coordinates of rows in the space that the training rows span.

    N training rows of D > N numbers become N numbers each; lengths, angles and what a linear
    classifier with an L2 penalty makes of them stay, and it is fitted in a fraction of the time.
    """

    def fit(self, x: Rows, truth: Names | None = None) -> RowSpace:
        """Find an orthonormal basis of the rows x (N, D); none where D is at most N."""
        self.basis_ = None if x.shape[1] <= len(x) else np.linalg.qr(x.T)[0]
        return self

    def transform(self, x: Rows) -> Rows:
        """Return the coordinates (M, min(N, D)) of rows x (M, D)."""
        return x if self.basis_ is None else x @ self.basis_


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
        dimensions = x.shape[1]
        self.space = RowSpace().fit(x)  # beyond it the covariance is a multiple of the identity
        x = self.space.transform(x)
        means = np.zeros((len(counts), x.shape[1]))
        np.add.at(means, index, x)
        means /= counts[:, None]
        deviation = x - means[index]
        within = (1 - self.shrinkage) * (deviation.T @ deviation) / len(x)
        mean_eigenvalue = (deviation**2).sum() / (len(x) * dimensions)
        within[np.diag_indices_from(within)] += self.shrinkage * mean_eigenvalue + 1e-12
        self.weights = solve(within, means.T, assume_a="pos")
        self.offset = np.log(counts / len(x)) - 0.5 * (means * self.weights.T).sum(1)
        return self

    def predict(self, x: Rows) -> Names:
        """Return the classes (N,) of rows (N, D)."""
        scores = self.space.transform(x) @ self.weights + self.offset
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
    # With a warm start the next of the grid begins where the one before ended.
    logistic = LogisticRegression(max_iter=500, class_weight=weight, warm_start=True)
    svm = LinearSVC(class_weight=weight, random_state=seed)
    mlp = MLPClassifier((64,), max_iter=300, early_stopping=True, random_state=seed)
    penalties = tuple(10.0**k for k in range(-4, 2))
    return {
        "logistic": Kind(logistic, "C", penalties, balanced, in_row_space=True),
        "svm": Kind(svm, "C", penalties, balanced, in_row_space=True),
        "knn": Kind(KNeighborsClassifier(), "n_neighbors", (31, 15, 7, 3, 1)),
        "lda": Kind(ShrunkLDA(0.5), "shrinkage", (0.9, 0.5, 0.2, 0.1, 0.01)),
        "mlp": Kind(mlp, "alpha", (10.0, 1.0, 0.1, 0.01)),
    }


def fitted(kind: Kind, setting: Any, x: Rows, truth: Names) -> Any:
    """Return standardisation and classifier, fitted together to rows (N, D) and classes (N,)."""
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    classifier = clone(kind.classifier).set_params(**{kind.parameter: setting})
    return make_pipeline(*_preparation(kind), classifier).fit(x, truth)


def _preparation(kind: Kind) -> list[Any]:
    """Return what the rows go through before a classifier of this kind."""
    from sklearn.preprocessing import StandardScaler

    return [StandardScaler(), RowSpace()] if kind.in_row_space else [StandardScaler()]


def choose(kind: Kind, x: Rows, truth: Names, group: Names) -> Any:
    """Return the setting with the best UAR over folds of groups within the training data.

    Of equals the simplest is taken; with one group only, the middle of the grid.

    Args:
        kind: of classifier.
        x: (N, D) training rows.
        truth: (N,) their classes.
        group: (N,) their groups.
    """
    from sklearn.base import clone
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    count = min(4, len(np.unique(group)))
    if count < 2:
        return kind.grid[len(kind.grid) // 2]
    scores = []
    for train, test in GroupKFold(count).split(x, truth, group):
        if len(np.unique(truth[train])) < 2:
            continue
        preparation = make_pipeline(*_preparation(kind)).fit(x[train])
        train_rows = preparation.transform(x[train])
        test_rows = preparation.transform(x[test])
        classifier = clone(kind.classifier)
        of_fold = []
        for setting in kind.grid:
            classifier.set_params(**{kind.parameter: setting}).fit(train_rows, truth[train])
            of_fold.append(metrics.uar(truth[test], classifier.predict(test_rows)))
        scores.append(of_fold)
    if not scores:
        return kind.grid[0]
    mean = np.mean(scores, axis=0)
    return kind.grid[int(np.argmax(mean > mean.max() - 1e-9))]
