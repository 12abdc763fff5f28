"""A folder of parquet files: embeddings of any number, read a block at a time.

Each file has the columns of `parquet.py` (`id`, `embedding`, and for windows their spans) and
`seconds`, the audio behind the embedding. The order of the files is that of their names; names
that begin with a dot or an underscore are no data, as in Hive, Spark and pyarrow. An id stands once
in the whole folder: the writer sees to it, and `read_vectors` looks.

The folder lies on a disk, or behind an address that the user gave (`s3://bucket/embeddings`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.remotes import is_address
from speechssl.data.vectors.format import Vectors, most_bytes_of
from speechssl.data.vectors.parquet import batches, bomb, group_rows, ids_of, opened, unequal
from speechssl.data.vectors.places import Entry, Place
from speechssl.errors import UserError
from speechssl.pools import ThreadPool

BLOCK_ROWS = 8192
"""Rows of a block."""

ENDING = ".parquet"

_AT_ONCE = 16  # footers that are read at the same time: behind an address each costs a request


def holds_embeddings(folder: str | Path) -> bool:
    """True if a folder of this machine has a file of embeddings."""
    path = Path(folder)
    return path.is_dir() and any(is_part(entry.name) for entry in Place(path).files())


def is_folder(name: str | Path) -> bool:
    """True if a name to read from means a folder of parquet files: a folder, or an address."""
    return is_address(str(name)) or Path(name).is_dir()


@dataclass(frozen=True)
class Part:
    """A file of the folder.

    Attributes:
        entry: its name and size.
        first: row of the folder at which it begins.
        groups: rows of each of its row groups.
    """

    entry: Entry
    first: int
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of its rows."""
        return sum(self.groups)


class VectorFolder:
    """The embeddings in a folder of parquet files.

    Only the files' metadata are read at first; each of them claims no more than its bytes can hold.

    Args:
        name: path or address of the folder.

    Attributes:
        name: the same, as a string.
        parts: its files, in their order.
        rows: N, number of embeddings.
        dim: D, their size.

    Raises:
        UserError: there is no such folder, or none of its files is one of embeddings.
    """

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        self._place = Place(name)
        entries = [entry for entry in self._place.files() if is_part(entry.name)]
        with ThreadPool(_AT_ONCE) as pool:
            found = list(pool.map(self._row_groups, entries))
        parts = []
        first = 0
        for entry, groups in zip(entries, found, strict=True):
            parts.append(Part(entry, first, groups))
            first += sum(groups)
        self.parts = tuple(parts)
        self.rows = first
        if not self.rows:
            raise UserError(
                f"{self.name}: holds no embeddings ({len(parts)} files {ENDING}); give a folder that"
                " `speechssl embed --out FOLDER` wrote"
            )
        self.dim = next(self.blocks(1, with_ids=False))[1].shape[1]
        if not self.dim:
            raise UserError(f"{self.name}: its vectors have no numbers; write it again")

    def blocks(
        self,
        rows: int = BLOCK_ROWS,
        share: tuple[int, int] = (0, 1),
        *,
        with_ids: bool = True,
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield the ids and embeddings (n, D) of consecutive rows.

        Memory is that of one block and of the piece of a file behind it.

        Args:
            rows: n at most.
            share: rank and number of those that share the rows: each gets its part of consecutive
                rows, equally many to one.
            with_ids: read the ids; otherwise the lists of ids are empty.

        Raises:
            UserError: a file is missing, damaged, or of another D than those before it.
        """
        rank, world = share
        first = self.rows * rank // world
        stop = self.rows * (rank + 1) // world
        dim = getattr(self, "dim", None)
        for part in self.parts:
            begin = max(first - part.first, 0)
            end = min(stop - part.first, part.rows)
            if begin >= end:
                continue
            for ids, vectors in self._read(part, begin, end, rows, with_ids):
                if dim not in (None, vectors.shape[1]):
                    raise unequal(f"{self.name}/{part.entry.name}")
                dim = vectors.shape[1]
                yield ids, vectors

    def read(self, only: Collection[str] | None = None) -> Vectors:
        """Return ids (N,) and embeddings (N, D) as arrays.

        Args:
            only: leave out all other ids; None: the whole folder is held in memory.

        Raises:
            UserError: see `blocks`; or the files hold far more numbers than their bytes should.
        """
        limit = most_bytes_of(sum(part.entry.size for part in self.parts))
        names: list[str] = []
        kept: list[NDArray[np.float32]] = []
        size = 0
        for ids, vectors in self.blocks():
            if only is not None:
                rows = [row for row, name in enumerate(ids) if name in only]
                ids = [ids[row] for row in rows]
                vectors = vectors[rows]
            names += ids
            kept.append(vectors)
            size += vectors.nbytes
            if size > limit:
                raise bomb(self.name)
        return np.array(names, dtype=str), np.concatenate(kept)

    def sample(self, count: int, seed: int = 0, *, with_ids: bool = True) -> Vectors:
        """Return ids (n,) and embeddings (n, D) drawn by lot, in the order of the folder.

        Every row is as likely as any other, so the whole folder is read once.

        Args:
            count: n; all, where there are no more.
            seed: of the lot.
            with_ids: read the ids; otherwise there are none.
        """
        rng = np.random.default_rng(seed)
        count = min(count, self.rows)
        drawn = np.sort(rng.choice(self.rows, count, replace=False, shuffle=False))
        names: list[str] = []
        found = np.empty((len(drawn), self.dim), np.float32)
        first = 0
        for ids, vectors in self.blocks(with_ids=with_ids):
            begin, end = np.searchsorted(drawn, (first, first + len(vectors)))
            here = drawn[begin:end] - first
            found[begin:end] = vectors[here]
            if with_ids:
                names += [ids[row] for row in here.tolist()]
            first += len(vectors)
        return np.array(names, dtype=str), found

    def ids(self) -> Iterator[str]:
        """Yield all ids, without the embeddings."""
        for part in self.parts:
            where = f"{self.name}/{part.entry.name}"
            with (
                self._place.open(part.entry.name) as source,
                opened(where, source, part.entry.size) as file,
            ):
                for ids in ids_of(where, file, BLOCK_ROWS):
                    yield from ids

    def _row_groups(self, entry: Entry) -> tuple[int, ...]:
        """Return the rows of each row group of a file."""
        with (
            self._place.open(entry.name) as source,
            opened(f"{self.name}/{entry.name}", source, entry.size) as file,
        ):
            return group_rows(file.metadata)

    def _read(
        self, part: Part, begin: int, end: int, rows: int, with_ids: bool
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield rows `begin` to `end` of a file, counted within it, in blocks."""
        where = f"{self.name}/{part.entry.name}"
        groups, skipped = _groups_of(part.groups, begin, end)
        left_out = begin - skipped
        wanted = end - begin
        with (
            self._place.open(part.entry.name) as source,
            opened(where, source, part.entry.size) as file,
        ):
            for ids, vectors in batches(where, file, groups, rows, with_ids):
                read = len(vectors)
                ids = ids[left_out : left_out + wanted]
                vectors = vectors[left_out : left_out + wanted]
                left_out = max(0, left_out - read)
                wanted -= len(vectors)
                if len(vectors):
                    yield ids, vectors
                if not wanted:
                    return
        raise UserError(f"{where}: is cut off, or changed while it was read; write it again")


def _groups_of(groups: Sequence[int], begin: int, end: int) -> tuple[list[int], int]:
    """Return the row groups that hold rows `begin` to `end`, and the rows before the first one."""
    found: list[int] = []
    before = 0
    start = 0
    for number, count in enumerate(groups):
        if start < end and start + count > begin and count:
            if not found:
                before = start
            found.append(number)
        start += count
    return found, before


def is_part(name: str) -> bool:
    """True for the name of a file of embeddings, of ours or of another program."""
    return name.endswith(ENDING) and not name.startswith((".", "_"))
