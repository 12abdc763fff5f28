"""Read embeddings, keep training data apart from the test, and find the rows that trials name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.data.trials import Trials
from speechssl.data.vectors.files import read_vectors
from speechssl.data.vectors.folder import VectorFolder, is_folder
from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import Index, Matrix

Embeddings = str | Path | tuple[ArrayLike, ArrayLike]
"""A file or folder of embeddings, or ids (N,) and a matrix (N, D)."""

Ids = NDArray[np.str_]


@dataclass(frozen=True)
class LocatedTrials:
    """Trials whose utterances all have an embedding.

    Attributes:
        trials: T trials, in the order of the list.
        enrol: (T,) row of the first side of each trial in the matrix of embeddings.
        test: (T,) row of the second side.
        skipped: how many trials of the list were left out because an id is unknown.
    """

    trials: Trials
    enrol: Index
    test: Index
    skipped: int


def load(source: Embeddings, what: str, only: Collection[str] | None = None) -> tuple[Ids, Matrix]:
    """Read embeddings.

    Args:
        source: a file or folder, or ids and a matrix.
        what: names embeddings that have no path, in an error.
        only: ids that are needed; of a folder no others are held.

    Returns:
        Unique ids (N,) and finite embeddings (N, D).

    Raises:
        UserError: ids that repeat, shapes that do not match, numbers that are not finite, or a folder
            that has none of the ids that are needed.
    """
    if isinstance(source, str | Path):
        what = str(source)
        ids, matrix = read_vectors(source, only)
        if not len(ids):
            raise UserError(
                f"{what}: holds none of the {len(only or ())} ids that the trials name; is it the"
                f" right list? The embeddings have ids like {next(VectorFolder(source).ids())!r}"
            )
    else:
        ids = np.asarray(source[0], dtype=str)
        matrix = np.asarray(source[1], dtype=np.float32)
        _check_shapes(ids, matrix, what)
    is_broken = ~np.isfinite(matrix).all(1)
    if is_broken.any():
        first = str(ids[is_broken.argmax()])
        raise UserError(
            f"{what}: {int(is_broken.sum())} embeddings are not finite, first {first!r}; embed them"
            " again"
        )
    return ids, matrix


def _check_shapes(ids: Ids, matrix: Matrix, what: str) -> None:
    fits = matrix.ndim == 2 and len(ids) == len(matrix) and len(ids) > 0
    if not fits or len(np.unique(ids)) != len(ids):
        raise UserError(
            f"{what}: need unique ids (N,) and a matrix (N, D), have {ids.shape} and {matrix.shape}"
        )


def load_apart(source: Embeddings, ids: Ids, matrix: Matrix, what: str) -> tuple[Ids, Matrix]:
    """Read embeddings that must not be the test's.

    Args:
        source: a file, or ids and a matrix.
        ids: (N,) of the test set.
        matrix: (N, D) embeddings of the test set.
        what: names the embeddings in an error.

    Raises:
        UserError: as for `load`; an id has the same embedding in both sets; or another D.
    """
    other_ids, other = load(source, what)
    _check_apart(other_ids, other, _rows_of(ids), matrix, what)
    return other_ids, other


def _check_apart(
    other_ids: Ids, other: Matrix, row_of: Mapping[str, int], matrix: Matrix, what: str
) -> None:
    """Raise UserError if an id has the same embedding in both sets, or they are of another size.

    Args:
        other_ids: (M,).
        other: (M, D).
        row_of: test id -> its row in `matrix`.
        matrix: (N, D) embeddings of the test set.
        what: names the others in an error.
    """
    if other.shape[1] != matrix.shape[1]:
        raise UserError(
            f"{what}: embeddings of {other.shape[1]} numbers, those of the test have"
            f" {matrix.shape[1]}; use one model"
        )
    names = other_ids.tolist()
    rows = [row for row, name in enumerate(names) if name in row_of]
    test_rows = [row_of[names[row]] for row in rows]
    is_same = (other[rows] == matrix[test_rows]).all(1)
    if is_same.any():
        raise UserError(
            f"{what}: holds {int(is_same.sum())} test embeddings, first"
            f" {names[rows[int(is_same.argmax())]]!r}; use training data"
        )


def _rows_of(ids: Ids) -> dict[str, int]:
    """Return id -> row."""
    return {name: row for row, name in enumerate(ids.tolist())}


def mean_apart(source: Embeddings, ids: Ids, matrix: Matrix, what: str) -> Matrix:
    """Return the mean (D,) of embeddings that must not be the test's; a folder is read in blocks.

    Arguments and errors are those of `load_apart`.
    """
    if not isinstance(source, str | Path) or not is_folder(source):
        mean: Matrix = load_apart(source, ids, matrix, what)[1].mean(0, dtype=np.float64)
        return mean.astype(np.float32)
    folder = VectorFolder(source)
    total = np.zeros(folder.dim)
    row_of = _rows_of(ids)
    for names, block in folder.blocks():
        block_ids, _ = load((names, block), str(source))
        _check_apart(block_ids, block, row_of, matrix, str(source))
        total += block.sum(0, dtype=np.float64)
    return (total / folder.rows).astype(np.float32)


@dataclass(frozen=True)
class Enrolled:
    """Embeddings with those of enrolled models behind them.

    Attributes:
        matrix: (N + M, D): utterances, then models.
        row_of: model -> its row.
        utterances_of: model -> the rows of its utterances.
    """

    matrix: Matrix
    row_of: Mapping[str, int]
    utterances_of: Mapping[str, Sequence[int]]


def enrol_models(
    models: Mapping[str, Sequence[str]], ids: Ids, matrix: Matrix, keep_going: bool
) -> Enrolled:
    """Average the embeddings of each model's utterances.

    A mean commutes with the subtraction of a training mean, which comes later.

    Args:
        models: model -> utterances.
        ids: (N,) of the embeddings.
        matrix: (N, D).
        keep_going: leave out utterances without an embedding, and models without utterances.

    Raises:
        UserError: an utterance without an embedding, without `keep_going`.
    """
    row_of = _rows_of(ids)
    rows_of = {}
    means = []
    for model, utterances in models.items():
        rows = [row_of[name] for name in utterances if name in row_of]
        if len(rows) < len(utterances) and not keep_going:
            missing = next(name for name in utterances if name not in row_of)
            raise UserError(
                f"--enrol: {missing!r} of model {model!r} has no embedding; embed it too, or leave it"
                " out with --keep-going"
            )
        if rows:
            rows_of[model] = rows
            means.append(matrix[rows].mean(0, dtype=np.float64).astype(np.float32))
    places = {model: len(matrix) + number for number, model in enumerate(rows_of)}
    if means:
        matrix = np.vstack([matrix, np.stack(means)])
    return Enrolled(matrix, places, rows_of)


def locate(
    trials: Trials, ids: Ids, keep_going: bool, models: Mapping[str, int] | None = None
) -> LocatedTrials:
    """Find the rows of both sides of each trial.

    Args:
        trials: a list of trials.
        ids: (N,) of the embeddings, in the order of their rows.
        keep_going: leave out and count trials that name an unknown id.
        models: enrolled models and their rows. A name that is a model's and an utterance's means
            the model on the first side of a trial, the utterance on the second.

    Raises:
        UserError: no trials; an unknown id, without `keep_going`; or all trials name one.
    """
    if not len(trials):
        raise UserError("verification: the list holds no trials; give some")
    row_of = _rows_of(ids)
    models = models or {}
    first_of = {**row_of, **models}
    second_of = {**models, **row_of}
    enrol = np.array([first_of.get(name, -1) for name in trials.enrol.tolist()], np.int64)
    test = np.array([second_of.get(name, -1) for name in trials.test.tolist()], np.int64)
    known = (enrol >= 0) & (test >= 0)
    skipped = int((~known).sum())
    if not skipped:
        return LocatedTrials(trials, enrol, test, 0)
    if not keep_going or not known.any():
        first = int(np.argmin(known))
        side = trials.enrol if enrol[first] < 0 else trials.test
        hint = f"is it the right list? The embeddings have ids like {str(ids[0])!r}"
        if known.any():
            hint = "embed them too, or leave them out with --keep-going"
        raise UserError(
            f"{skipped} of {len(known)} trials name an id without an embedding, first"
            f" {str(side[first])!r}; {hint}"
        )
    kept = Trials(trials.enrol[known], trials.test[known], trials.target[known])
    return LocatedTrials(kept, enrol[known], test[known], skipped)
