"""Where embeddings come from, what they must not share with the test, and the rows that trials
name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.data.trials import Trials
from speechssl.data.vectors.files import read_vectors
from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import Index, Matrix

Embeddings = str | Path | tuple[ArrayLike, ArrayLike]
Ids = NDArray[np.str_]


def load(source: Embeddings, what: str) -> tuple[Ids, Matrix]:
    """Unique ids (N,) and finite embeddings (N, D); `what` names them in an error if they have no
    path.
    """
    if isinstance(source, (str, Path)):
        what, (ids, matrix) = str(source), read_vectors(source)
    else:
        ids, matrix = np.asarray(source[0], dtype=str), np.asarray(source[1], dtype=np.float32)
        if (
            matrix.ndim != 2
            or len(ids) != len(matrix)
            or not len(ids)
            or len(np.unique(ids)) != len(ids)
        ):
            raise UserError(
                f"{what}: need unique ids (N,) and a matrix (N, D), have {ids.shape} and"
                f" {matrix.shape}"
            )
    broken = ~np.isfinite(matrix).all(1)
    if broken.any():
        first = str(ids[broken.argmax()])
        raise UserError(
            f"{what}: {int(broken.sum())} embeddings are not finite, first {first!r}; embed them"
            " again"
        )
    return ids, matrix


def load_apart(source: Embeddings, ids: Ids, matrix: Matrix, what: str) -> tuple[Ids, Matrix]:
    """As `load`, of data that must not be the test's: refused when an id has the same vector in
    both.
    """
    other_ids, other = load(source, what)
    if other.shape[1] != matrix.shape[1]:
        raise UserError(
            f"{what} has {other.shape[1]} numbers a vector, the test {matrix.shape[1]}; use one"
            " model"
        )
    shared, mine, theirs = np.intersect1d(ids, other_ids, return_indices=True)
    same = (matrix[mine] == other[theirs]).all(1)
    if same.any():
        first = str(shared[same.argmax()])
        raise UserError(
            f"{what}: holds {int(same.sum())} test embeddings, first {first!r}; use training data"
        )
    return other_ids, other


def locate(trials: Trials, ids: Ids, keep_going: bool) -> tuple[Trials, Index, Index, int]:
    """Rows of both sides of each trial; what names an unknown id is refused, or left out and
    counted.
    """
    rows = {name: row for row, name in enumerate(ids.tolist())}
    sides = [
        np.array([rows.get(name, -1) for name in side.tolist()], np.int64)
        for side in (trials.enrol, trials.test)
    ]
    known = (sides[0] >= 0) & (sides[1] >= 0)
    skipped = int((~known).sum())
    if skipped and not (keep_going and known.any()):
        at = int(np.argmin(known))
        name = str(trials.test[at] if sides[0][at] >= 0 else trials.enrol[at])
        hint = (
            "embed them too, or leave them out with --keep-going"
            if known.any()
            else "is it the right list?"
        )
        raise UserError(
            f"{skipped} of {len(known)} trials name an id without an embedding, first {name!r};"
            f" {hint}"
        )
    if skipped:
        trials = Trials(trials.enrol[known], trials.test[known], trials.target[known])
    return trials, sides[0][known], sides[1][known], skipped
