"""Who sounds like whom: cosines of all pairs, or each utterance's nearest neighbours, without a
    trial list.

By matrix product in tiles, written as they come: a million embeddings need no more memory than
    their matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechssl.errors import UserError
from speechssl.evaluation.verification.backends import Cosine
from speechssl.evaluation.verification.scoring import TILE, Matrix, nearest, unit
from speechssl.evaluation.verification.sources import Embeddings, load, load_apart

Pair = tuple[str, str, float]


def search(
    embeddings: Embeddings,
    against: Embeddings | None = None,
    *,
    top: int | None = None,
    mean: Embeddings | None = None,
    whiten: Embeddings | None = None,
    shrinkage: float = 0.1,
) -> Iterator[Pair]:
    """(id, other id, cosine) of each embedding with the `top` nearest others, highest first, or
    with all.

    Args:
        against: where to look; None: among the embeddings themselves, each pair once if it is all
            pairs.
        top: how many; None: all.
        mean, whiten, shrinkage: as in `verification.verify`; of other data than the embeddings.

    Raises:
        UserError: NaN, other sizes, or data of the embeddings where they must not be.
    """
    ids, matrix = load(embeddings, "the embeddings")
    others, columns = (ids, matrix) if against is None else load(against, "the others")
    if columns.shape[1] != matrix.shape[1]:
        raise UserError(
            f"search: the others have {columns.shape[1]} numbers a vector, the first"
            f" {matrix.shape[1]}; use one model"
        )
    if top is not None and top < 1:
        raise UserError(f"search: the {top} nearest; give at least 1")

    def apart(source: Embeddings | None, what: str) -> Matrix | None:
        return None if source is None else load_apart(source, ids, matrix, what)[1]

    training = apart(whiten, "the training set of the whitening")
    scoring = Cosine(apart(mean, "the mean"), training, shrinkage)
    rows = scoring.moved(matrix)
    columns = rows if against is None else scoring.moved(columns)
    names, other_names = ids.tolist(), others.tolist()
    if top is None:
        return _all(names, rows, other_names, columns, once=against is None)
    return _nearest(names, rows, other_names, columns, top, but_itself=against is None)


def _nearest(
    names: list[str], rows: Matrix, others: list[str], columns: Matrix, top: int, but_itself: bool
) -> Iterator[Pair]:
    for start, cosines, places in nearest(rows, columns, top, but_itself=but_itself):
        for row, (values, whose) in enumerate(
            zip(cosines.tolist(), places.tolist(), strict=True), start
        ):
            for value, place in zip(values, whose, strict=True):
                yield names[row], others[place], value


def _all(
    names: list[str],
    rows: Matrix,
    others: list[str],
    columns: Matrix,
    once: bool,
) -> Iterator[Pair]:
    """Every pair; `once`: the two are the same, and a pair comes in one order only, without its
    own.
    """
    rows, columns = unit(rows), unit(columns)
    for start in range(0, len(rows), TILE[0]):
        for first in range(0, len(columns), TILE[1]):
            if once and first + TILE[1] <= start:
                continue
            cosines = rows[start : start + TILE[0]] @ columns[first : first + TILE[1]].T
            for row, values in enumerate(cosines.tolist(), start):
                for column, value in enumerate(values, first):
                    if not once or column > row:
                        yield names[row], others[column], value
