"""The spectrum of embeddings, for pictures and the page."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMALLEST_VALUE = 1e-8
"""Singular values below this share of the largest are rounding: they are drawn at it."""


def spectrum(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Return the singular values of centred embeddings (N, D), the first at 1: min(N - 1, D).

    N centred rows span at most N - 1 directions: for N <= D the last of the N values is a rounding
    error. All zeros where the embeddings are all the same.
    """
    matrix = np.asarray(embeddings, np.float64)
    values: NDArray[np.float64] = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)
    values = values[: max(1, min(len(matrix) - 1, matrix.shape[1]))]
    # What is left of equal rows after rounding is no direction.
    rounding = 1e-12 * float(np.abs(matrix).max(initial=0.0)) * np.sqrt(matrix.size)
    largest = values[0] if values[0] > rounding else np.inf
    values = values / largest
    return values
