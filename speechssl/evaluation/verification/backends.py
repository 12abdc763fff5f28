"""Back-ends: what turns embeddings and trials into scores. Cosines, and PLDA.

A back-end is fitted on training data and then applied alike to the trials of the test and of the
calibration.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.evaluation.verification.plda import PLDA
from speechssl.evaluation.verification.scoring import (
    SPREAD,
    Index,
    Matrix,
    as_norm,
    score_trials,
    subtract_mean,
    unit,
    used_rows,
    whitening,
)
from speechssl.evaluation.verification.settings import VerificationSettings
from speechssl.evaluation.verification.sources import Embeddings, Ids, load_apart, mean_apart


class Backend(Protocol):
    """Scores trials; `name` says how, for the results."""

    name: str

    def __call__(self, matrix: Matrix, enrol: Index, test: Index) -> NDArray[np.float64]:
        """Return the scores (T,) of the rows `enrol` and `test` (T,) of `matrix` (N, D)."""
        ...


class Cosine:
    """Cosines, after what was asked for: mean subtraction, whitening, AS-norm.

    Args:
        mean: mean (D,) of training embeddings, or they themselves (M, D); it is subtracted. None:
            that of `whiten`, if any.
        whiten: (M, D) training embeddings for whitening; None: none.
        shrinkage: of the whitening.
        cohort: (C, D) embeddings for AS-norm; None: no AS-norm.
        top: cohort embeddings that AS-norm uses.
    """

    def __init__(
        self,
        mean: Matrix | None = None,
        whiten: Matrix | None = None,
        shrinkage: float = 0.1,
        cohort: Matrix | None = None,
        top: int = 300,
    ) -> None:
        self.mean = whiten if mean is None else mean
        self.whitener: Matrix | None = None
        self.cohort: Matrix | None = None
        self.top = top
        steps = ["cosine"]
        if self.mean is not None:
            steps.append("training mean subtracted")
        if whiten is not None:
            self.whitener = whitening(whiten, shrinkage)
            steps.append(f"whitened (shrinkage {shrinkage:g})")
        if cohort is not None:
            self.cohort = self.transform(cohort)
            steps.append(f"AS-norm top {min(top, len(cohort))} of {len(cohort)}")
            if top > len(cohort):
                warnings.warn(
                    f"AS-norm: the whole cohort of {len(cohort)} is used, not {top}", stacklevel=4
                )
        self.name = ", ".join(steps)

    def __call__(self, matrix: Matrix, enrol: Index, test: Index) -> NDArray[np.float64]:
        """Return the scores (T,) of the rows `enrol` and `test` (T,) of `matrix` (N, D)."""
        used = unit(matrix[used_rows(len(matrix), enrol, test)])
        if np.ptp(used, axis=0).max() < SPREAD:
            # Collapsed: what rounding left must not be ranked. `metrics` warns of equal scores.
            return np.zeros(len(enrol))
        matrix = self.transform(matrix)
        scores = score_trials(matrix, enrol, test)
        if self.cohort is None:
            return scores
        return as_norm(scores, matrix, enrol, test, self.cohort, self.top)

    def transform(self, matrix: Matrix) -> Matrix:
        """Return `matrix` (N, D) with the mean subtracted and whitened, as far as asked for."""
        if self.mean is not None:
            matrix = subtract_mean(matrix, self.mean)
        if self.whitener is not None:
            matrix = unit(matrix) @ self.whitener
        return matrix


def fit_backend(settings: VerificationSettings, ids: Ids, matrix: Matrix) -> Backend:
    """Fit the back-end that the settings ask for.

    Args:
        settings: names the training data.
        ids: (N,) of the test set.
        matrix: (N, D) embeddings of the test set, which the training data must not hold.

    Raises:
        UserError: training data that cannot be read, hold test embeddings, or are too few.
    """
    if settings.plda is not None:
        source, classes = settings.plda
        names, training = load_apart(source, ids, matrix, "the training set of PLDA")
        return fit_plda(names, training, classes, settings)
    return fit_cosine(settings, ids, matrix)


def fit_cosine(settings: VerificationSettings, ids: Ids, matrix: Matrix) -> Cosine:
    """Fit `Cosine`; arguments and errors as for `fit_backend`."""

    def read(source: Embeddings | None, what: str) -> Matrix | None:
        return None if source is None else load_apart(source, ids, matrix, what)[1]

    mean = None
    if settings.mean is not None:
        mean = mean_apart(settings.mean, ids, matrix, "the mean")
    return Cosine(
        mean=mean,
        whiten=read(settings.whiten, "the training set of the whitening"),
        shrinkage=settings.shrinkage,
        cohort=read(settings.cohort, "the cohort"),
        top=settings.top,
    )


def fit_plda(
    ids: Ids, training: Matrix, classes: Mapping[str, str], settings: VerificationSettings
) -> PLDA:
    """Fit PLDA to the training embeddings that have a class.

    Args:
        ids: (M,) of the training embeddings.
        training: (M, D).
        classes: utterance -> class.
        settings: have the directions and the shrinkage of PLDA.

    Raises:
        UserError: no training embedding has a class, or PLDA cannot be fitted.
    """
    names = ids.tolist()
    rows = [row for row, name in enumerate(names) if name in classes]
    if not rows:
        raise UserError(
            f"plda: none of the {len(names)} training embeddings has a class (first {names[0]!r});"
            " are they of the same data?"
        )
    class_names = [classes[names[row]] for row in rows]
    numbers = np.unique(class_names, return_inverse=True)[1]
    return PLDA(
        training[rows],
        numbers.astype(np.int64),
        dim=settings.plda_dim,
        pca=settings.plda_pca,
        shrinkage=settings.plda_shrinkage,
    )
