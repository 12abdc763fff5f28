"""Scores of classification: micro and macro F1, the unweighted average recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.errors import UserError
from speechssl.metrics.verification import Floats


def contingency(
    truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[Any], Floats]:
    """Return `(labels (C,), counts (C, C))`: rows are true labels, columns predicted ones.

    Args:
        truth: (N,) labels.
        predicted: (N,) labels.
        weights: (N,) of the items; None: each counts once.
    """
    truth = np.asarray(truth)
    predicted = np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise UserError(
            f"{predicted.shape} predictions for {truth.shape} labels: give one each, and at least"
            " one"
        )
    labels, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    cells = codes[: len(truth)] * len(labels) + codes[len(truth) :]
    cell_weights = None if weights is None else np.asarray(weights)
    counts = np.bincount(cells, cell_weights, minlength=len(labels) ** 2)
    return labels, counts.reshape(len(labels), len(labels)).astype(np.float64)


def micro_f1(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the micro-averaged F1 (0 to 1): with one label an item, the accuracy."""
    return micro_f1_of(contingency(truth, predicted, weights)[1])


def macro_f1(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean over classes of F1 (0 to 1).

    A class is any label that is true or predicted somewhere.
    """
    return macro_f1_of(contingency(truth, predicted, weights)[1])


def uar(truth: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the unweighted average recall (0 to 1) over the classes in `truth`: the balanced
    accuracy.
    """
    return uar_of(contingency(truth, predicted, weights)[1])


def micro_f1_of(counts: Floats) -> float:
    """Return `micro_f1` of a contingency table (C, C)."""
    return float(np.trace(counts) / counts.sum())


def macro_f1_of(counts: Floats) -> float:
    """Return `macro_f1` of a contingency table (C, C)."""
    support = counts.sum(0) + counts.sum(1)
    used = support > 0
    return float(np.mean(2 * np.diag(counts)[used] / support[used]))


def uar_of(counts: Floats) -> float:
    """Return `uar` of a contingency table (C, C)."""
    support = counts.sum(1)
    used = support > 0
    return float(np.mean(np.diag(counts)[used] / support[used]))
