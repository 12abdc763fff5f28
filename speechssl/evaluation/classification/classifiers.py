"""The classifiers that a probe may be: scikit-learn's, each with a grid of its one setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin

from speechssl import metrics
from speechssl.errors import UserError
from speechssl.evaluation.classification.folds import Names

Rows = NDArray[np.float64]


class Kind(NamedTuple):
    """A kind of classifier.

    Attributes:
        make: makes one for rows of so many numbers.
        parameter: the name of its setting.
        grid: values of the setting to choose from, simplest model first.
        balanced: whether classes weigh alike in its training.
        in_row_space: whether all that it learns lies in the space that the training rows span, as the
            weights of a linear classifier with an L2 penalty do.
    """

    make: Callable[[int], Any]
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
        self.basis_ = None
        if x.shape[1] > len(x):
            from scipy.linalg import eigh

            squares, directions = eigh(x @ x.T)  # a third of the time of a QR decomposition
            kept = squares > 1e-12 * squares[-1]
            self.basis_ = x.T @ (directions[:, kept] / np.sqrt(squares[kept]))
        return self

    def transform(self, x: Rows) -> Rows:
        """Return the coordinates (M, at most min(N, D)) of rows x (M, D)."""
        return x if self.basis_ is None else x @ self.basis_


class ShrunkLDA(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`` predicts.

    By a Cholesky decomposition of the shrunk covariance within classes, where that takes singular
    values: with 1,536 dimensions a fit takes a fifth of a second in place of seconds, and a probe
    makes a hundred and more.

    Args:
        shrinkage: share of the identity in the covariance.
        dimensions: of the rows, where x is their coordinates in the space that they span; None: as
            many as x has.
    """

    def __init__(self, shrinkage: float = 0.5, dimensions: int | None = None) -> None:
        self.shrinkage = shrinkage
        self.dimensions = dimensions

    def fit(self, x: Rows, truth: Names) -> ShrunkLDA:
        """Fit to rows (N, D) and their classes (N,)."""
        from scipy.linalg import solve

        self.classes_, index, counts = np.unique(truth, return_inverse=True, return_counts=True)
        means = np.zeros((len(counts), x.shape[1]))
        np.add.at(means, index, x)
        means /= counts[:, None]
        deviation = x - means[index]
        within = (1 - self.shrinkage) * (deviation.T @ deviation) / len(x)
        mean_eigenvalue = (deviation**2).sum() / (len(x) * (self.dimensions or x.shape[1]))
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

    def logistic(_: int) -> Any:
        return LogisticRegression(max_iter=500, class_weight=weight)

    def svm(_: int) -> Any:
        return LinearSVC(class_weight=weight, random_state=seed)

    def knn(_: int) -> Any:
        return KNeighborsClassifier()

    def lda(dimensions: int) -> Any:
        return ShrunkLDA(dimensions=dimensions)

    def mlp(_: int) -> Any:
        return MLPClassifier((64,), max_iter=300, early_stopping=True, random_state=seed)

    penalties = tuple(10.0**k for k in range(-4, 2))
    return {
        "logistic": Kind(logistic, "C", penalties, balanced, in_row_space=True),
        "svm": Kind(svm, "C", penalties, balanced, in_row_space=True),
        "knn": Kind(knn, "n_neighbors", (31, 15, 7, 3, 1)),
        "lda": Kind(lda, "shrinkage", (0.9, 0.5, 0.2, 0.1, 0.01), in_row_space=True),
        "mlp": Kind(mlp, "alpha", (10.0, 1.0, 0.1, 0.01)),
    }


def fitted(kind: Kind, setting: Any, x: Rows, truth: Names) -> Any:
    """Return standardisation and classifier, fitted together to rows (N, D) and classes (N,).

    Raises:
        UserError: there are too few rows for this kind of classifier.
    """
    from sklearn.pipeline import make_pipeline

    preparation = _preparation(kind).fit(x)
    classifier = kind.make(x.shape[1])
    _fit(kind, classifier, setting, preparation.transform(x), truth)
    return make_pipeline(preparation, classifier)


def _preparation(kind: Kind) -> Any:
    """Return what the rows go through before a classifier of this kind."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind.in_row_space:
        return make_pipeline(StandardScaler(), RowSpace())
    return make_pipeline(StandardScaler())


def _fit(kind: Kind, classifier: Any, setting: Any, rows: Rows, truth: Names) -> None:
    """Fit a classifier with a value of its setting; k-NN cannot have more neighbours than rows."""
    if kind.parameter == "n_neighbors":
        setting = min(setting, len(rows))
    try:
        classifier.set_params(**{kind.parameter: setting}).fit(rows, truth)
    except ValueError as error:  # the MLP holds out a tenth of the rows, some of each class
        raise UserError(
            f"classification: {len(rows)} training utterances are too few for this classifier"
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
    scores = []
    for train, test in GroupKFold(count).split(x, truth, group):
        if len(np.unique(truth[train])) < 2:
            continue
        preparation = _preparation(kind).fit(x[train])
        train_rows = preparation.transform(x[train])
        test_rows = preparation.transform(x[test])
        classifier = kind.make(x.shape[1])
        of_fold = []
        for setting in kind.grid:
            _fit(kind, classifier, setting, train_rows, truth[train])
            of_fold.append(metrics.uar(truth[test], classifier.predict(test_rows)))
        scores.append(of_fold)
    if not scores:
        return kind.grid[0]
    mean = np.mean(scores, axis=0)
    return kind.grid[int(np.argmax(mean > mean.max() - 1e-9))]
