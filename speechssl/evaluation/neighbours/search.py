"""Search an index: exact, or in two steps, codes first and then the rows of the best candidates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.evaluation.neighbours import layout
from speechssl.evaluation.neighbours.layout import About, Ids, read_about
from speechssl.evaluation.neighbours.quantised import Quantised
from speechssl.evaluation.verification.scoring import unit

Matrix = NDArray[np.float32]

_FLAT_ROWS = 65_536  # of an exact search at a time
_CANDIDATES = 40
"""Rows that are compared exactly for each neighbour that is wanted.

Of a million generated embeddings, 512 of 2,048 lists looked into: 10 candidates for each of the 10 nearest
give a recall of .940 in 7.9 ms, 40 .977 in 8.2 ms, 160 .979 in 9.4 ms; 1,024 lists and 10 candidates .956
in 15.1 ms."""

_LEAST_CANDIDATES = 400
_QUERIES = 256  # searched at a time


class Best:
    """The highest cosines of queries with rows that come a block at a time.

    Args:
        queries: (Q, D) unit rows.
        count: how many are kept, K; fewer where there are fewer rows.
    """

    def __init__(self, queries: Matrix, count: int) -> None:
        self._queries = torch.from_numpy(np.ascontiguousarray(queries))
        self._count = count
        self._cosines = torch.zeros(len(queries), 0)
        self._rows = torch.zeros(len(queries), 0, dtype=torch.int64)

    def look_at(self, block: Matrix, first: int) -> None:
        """Take in unit rows (n, D), whose numbers begin at `first`."""
        products = self._queries @ torch.from_numpy(block).T
        values, places = products.topk(min(self._count, products.shape[1]), dim=1)
        values = torch.cat([self._cosines, values], dim=1)
        rows = torch.cat([self._rows, places + first], dim=1)
        self._cosines, order = values.topk(min(self._count, values.shape[1]), dim=1)
        self._rows = rows.gather(1, order)

    @property
    def cosines(self) -> Matrix:
        """(Q, K), highest first."""
        found: Matrix = self._cosines.numpy()
        return found

    @property
    def rows(self) -> NDArray[np.int64]:
        """(Q, K) int64, the numbers of the rows."""
        found: NDArray[np.int64] = self._rows.numpy()
        return found


class Index:
    """An index that is open for search; its rows stay on disk, mapped into memory.

    Args:
        folder: that `speechssl index` wrote.
        about: what `index.json` will hold; None: it is read.

    Raises:
        UserError: no index, or a file that is damaged or not what it should be.
    """

    def __init__(self, folder: str | Path, about: About | None = None) -> None:
        self.folder = Path(folder)
        self.about = read_about(self.folder) if about is None else about
        kind = "float32" if self.about.kind == "flat" else "float16"
        self._shards = []
        for shard, rows in enumerate(self.about.shards):
            path = self.folder / layout.vectors_file(shard)
            self._shards.append(layout.mapped(path, (rows, self.about.dim), kind))
        self._first = np.cumsum((0, *self.about.shards))
        self.mean: Matrix | None = None
        if self.about.has_mean:
            mean = layout.mapped(self.folder / layout.MEAN, (self.about.dim,), "float32")
            self.mean = np.array(mean)
            if not np.isfinite(self.mean).all():
                raise _not_finite(self.folder)
        self._codes = None
        if self.about.kind == "ivfpq":
            self._codes = Quantised(self.folder, self.about)
        self.ids = Ids(self.folder, self.about.rows)

    def set_probes(self, probes: int) -> None:
        """Look into so many lists in later searches; an exact index has none."""
        if self._codes is not None:
            self._codes.probes = max(1, min(probes, self.about.lists))

    def search(
        self, names: list[str], embeddings: Matrix, count: int
    ) -> Iterator[tuple[str, str, float]]:
        """Yield each query's nearest embeddings: its id, the other's, the cosine, highest first.

        Args:
            names: ids of the queries (Q,).
            embeddings: (Q, D).
            count: nearest of each.

        Raises:
            UserError: embeddings of another size or not finite, or a damaged index.
        """
        if embeddings.shape[1] != self.about.dim:
            raise UserError(
                f"search: queries of {embeddings.shape[1]} numbers, the index is of"
                f" {self.about.dim}; use one model"
            )
        if not np.isfinite(embeddings).all():
            raise UserError("search: the queries hold numbers that are not finite; embed again")
        queries = unit(embeddings if self.mean is None else embeddings - self.mean)
        for first in range(0, len(queries), _QUERIES):
            cosines, rows = self.nearest(queries[first : first + _QUERIES], count)
            if not np.isfinite(cosines[rows >= 0]).all():
                raise _not_finite(self.folder)
            for place in range(len(rows)):
                name = names[first + place]
                pairs = zip(rows[place].tolist(), cosines[place].tolist(), strict=True)
                for row, cosine in pairs:
                    if row >= 0:
                        yield name, self.ids[row], cosine

    def nearest(self, queries: Matrix, count: int) -> tuple[Matrix, NDArray[np.int64]]:
        """Return cosines and rows (Q, `count`) of the nearest; row -1 where there are fewer.

        Args:
            queries: (Q, D) unit rows, less the mean of the index.
            count: nearest of each.
        """
        count = min(count, self.about.rows)
        if self._codes is None:
            return self._exact(queries, count)
        wanted = min(self.about.rows, max(_LEAST_CANDIDATES, _CANDIDATES * count))
        candidates = self._codes.candidates(queries, wanted)
        cosines = np.full(candidates.shape, -np.inf, np.float32)
        for number, rows in enumerate(candidates):
            known = rows >= 0
            cosines[number, known] = self._rows(rows[known]) @ queries[number]
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(cosines, order, 1), np.take_along_axis(candidates, order, 1)

    def _exact(self, queries: Matrix, count: int) -> tuple[Matrix, NDArray[np.int64]]:
        best = Best(queries, count)
        for shard, vectors in enumerate(self._shards):
            for first in range(0, len(vectors), _FLAT_ROWS):
                block = np.array(vectors[first : first + _FLAT_ROWS])
                best.look_at(block, int(self._first[shard]) + first)
        return best.cosines, best.rows

    def _rows(self, rows: NDArray[np.int64]) -> Matrix:
        """Return embeddings (n, D) of rows of any shard."""
        found = np.empty((len(rows), self.about.dim), np.float32)
        shard_of = np.searchsorted(self._first, rows, side="right") - 1
        for shard in np.unique(shard_of).tolist():
            here = shard_of == shard
            found[here] = self._shards[shard][rows[here] - self._first[shard]]
        return found


def _not_finite(folder: Path) -> UserError:
    return UserError(f"{folder}: the index holds numbers that are not finite; build it again")
