"""Find who sounds like whom without a trial list: cosines of all pairs, or nearest neighbours.

By matrix product in tiles, yielded as they come: a million embeddings need no more memory than
their matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

from speechssl.errors import UserError
from speechssl.evaluation.verification.backends import fit_cosine
from speechssl.evaluation.verification.scoring import TILE, Matrix, nearest, unit
from speechssl.evaluation.verification.settings import VerificationSettings
from speechssl.evaluation.verification.sources import Embeddings, load

Pair = tuple[str, str, float]
"""Id, other id, cosine."""


def search(
    embeddings: Embeddings,
    against: Embeddings | None = None,
    *,
    top: int | None = None,
    mean: Embeddings | None = None,
    whiten: Embeddings | None = None,
    shrinkage: float = 0.1,
) -> Iterator[Pair]:
    """Compare each embedding with its nearest others, highest cosine first, or with all.

    Args:
        embeddings: a file, or ids (N,) and a matrix (N, D).
        against: where to look; None: among the embeddings themselves, where all pairs are each pair
            once.
        top: how many others; None: all.
        mean: training embeddings whose mean is subtracted.
        whiten: training embeddings for whitening.
        shrinkage: of the whitening.

    Returns:
        An iterator over (id, other id, cosine).

    Raises:
        UserError: NaN, other sizes, or training data that hold embeddings of ``embeddings``.
    """
    ids, matrix = load(embeddings, "the embeddings")
    other_ids = ids
    others = matrix
    if against is not None:
        other_ids, others = load(against, "the others")
    if others.shape[1] != matrix.shape[1]:
        raise UserError(
            f"search: embeddings of {matrix.shape[1]} numbers against others of {others.shape[1]};"
            " use one model"
        )
    if top is not None and top < 1:
        raise UserError(f"search: the number of nearest others must be at least 1, not {top}")
    settings = VerificationSettings(mean=mean, whiten=whiten, shrinkage=shrinkage)
    cosine = fit_cosine(settings, ids, matrix)
    rows = cosine.transform(matrix)
    columns = rows if against is None else cosine.transform(others)
    names = ids.tolist()
    other_names = other_ids.tolist()
    if top is None:
        return _all_pairs(names, rows, other_names, columns, once=against is None)
    return _nearest(names, rows, other_names, columns, top, exclude_self=against is None)


def _nearest(
    names: list[str],
    rows: Matrix,
    others: list[str],
    columns: Matrix,
    top: int,
    exclude_self: bool,
) -> Iterator[Pair]:
    for start, cosines, places in nearest(rows, columns, top, exclude_self=exclude_self):
        for row, (row_cosines, row_places) in enumerate(zip(cosines, places, strict=True), start):
            for cosine, place in zip(row_cosines.tolist(), row_places.tolist(), strict=True):
                yield names[row], others[place], cosine


def _all_pairs(
    names: list[str],
    rows: Matrix,
    others: list[str],
    columns: Matrix,
    once: bool,
) -> Iterator[Pair]:
    """Yield every pair.

    With `once` rows and columns are the same embeddings: each pair is yielded in one order only,
    and no embedding with itself.
    """
    rows = unit(rows)
    columns = rows if once else unit(columns)
    for start in range(0, len(rows), TILE[0]):
        for first in range(0, len(columns), TILE[1]):
            if once and first + TILE[1] <= start:
                continue
            cosines = rows[start : start + TILE[0]] @ columns[first : first + TILE[1]].T
            for row, values in enumerate(cosines.tolist(), start):
                for column, value in enumerate(values, first):
                    if not once or column > row:
                        yield names[row], others[column], value
