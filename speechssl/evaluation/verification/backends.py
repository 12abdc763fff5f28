"""The scorings of `verification`, each applied alike to test and calibration trials: cosines, and
PLDA.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

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
from speechssl.evaluation.verification.sources import Ids


class Cosine:
    """Cosines after what was asked for: a mean subtracted, whitening, AS-norm with a cohort."""

    def __init__(
        self,
        mean: Matrix | None = None,
        whiten: Matrix | None = None,
        shrinkage: float = 0.1,
        cohort: Matrix | None = None,
        top: int = 300,
    ) -> None:
        self.mean, self.top = whiten if mean is None else mean, top
        self.whitener = None if whiten is None else whitening(whiten, shrinkage)
        self.cohort = None if cohort is None else self.moved(cohort)
        self.name = "cosine" + ("" if self.mean is None else ", training mean subtracted")
        self.name += "" if whiten is None else f", whitened (shrinkage {shrinkage:g})"
        if cohort is not None:
            if top > len(cohort):
                warnings.warn(
                    f"AS-norm: the whole cohort of {len(cohort)} is used, not {top}",
                    stacklevel=4,
                )
            self.name += f", AS-norm top {min(top, len(cohort))} of {len(cohort)}"

    def __call__(self, matrix: Matrix, enrol: Index, test: Index) -> NDArray[np.float64]:
        used = unit(matrix[used_rows(len(matrix), enrol, test)])
        if np.ptp(used, axis=0).max() < SPREAD:
            return np.zeros(
                len(enrol)
            )  # collapsed: what rounding left must not be ranked; `metrics` warns
        matrix = self.moved(matrix)
        scores = score_trials(matrix, enrol, test)
        return (
            scores
            if self.cohort is None
            else as_norm(scores, matrix, enrol, test, self.cohort, self.top)
        )

    def moved(self, matrix: Matrix) -> Matrix:
        """Mean subtracted and whitened, as far as asked for."""
        if self.mean is not None:
            matrix = subtract_mean(matrix, self.mean)
        return matrix if self.whitener is None else unit(matrix) @ self.whitener


def fit_plda(ids: Ids, training: Matrix, classes: Mapping[str, str], dim: int) -> PLDA:
    """PLDA of the training embeddings (N, D), their ids (N,), that have a class."""
    names = ids.tolist()
    rows = [row for row, name in enumerate(names) if name in classes]
    if not rows:
        raise UserError(
            f"plda: none of the {len(names)} training embeddings has a class (first {names[0]!r});"
            " are they of the same data?"
        )
    numbers = np.unique([classes[names[row]] for row in rows], return_inverse=True)[1]
    return PLDA(training[rows], numbers.astype(np.int64), dim)
