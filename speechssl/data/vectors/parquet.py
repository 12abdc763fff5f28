"""Parquet: columns `id` (string) and `embedding` (list of D float32); needs the extra `[scale]`.

For windows also `recording`, `start`, `stop` (seconds) and `channel`, as in `npz`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.format import (
    AddVectors,
    Span,
    Vectors,
    most_bytes,
    most_bytes_of,
    refuse_long_id,
)
from speechssl.data.vectors.npz import columns
from speechssl.errors import UserError
from speechssl.files import atomic_write

_ROWS = 256  # read at a time


class Parquet:
    """Written as the vectors come, a row group at a time."""

    suffixes = (".parquet",)

    def read(self, path: Path) -> Vectors:
        """Read a file."""
        ids: list[str] = []
        parts: list[NDArray[np.float32]] = []
        limit = most_bytes(path)
        size = 0
        where = str(path)
        with path.open("rb") as source, opened(where, source, path.stat().st_size) as file:
            for names, vectors in batches(where, file, range(file.num_row_groups), _ROWS):
                ids += names
                parts.append(vectors)
                size += vectors.nbytes
                if size > limit:
                    raise bomb(where)
        if len({vectors.shape[1] for vectors in parts}) > 1:
            raise unequal(where)
        vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
        return np.array(ids, dtype=str), vectors

    @contextmanager
    def writer(self, path: Path) -> Iterator[AddVectors]:
        """Open a file for writing."""
        arrow = pyarrow_or_refuse()
        writer: Any = None

        def add(
            ids: list[str], vectors: NDArray[np.float32], spans: Sequence[Span] | None = None
        ) -> None:
            nonlocal writer
            table = as_table(arrow, ids, vectors)
            for name, values in columns(spans or ()).items():
                table = table.append_column(name, arrow.array(values.tolist()))
            if writer is None:
                writer = arrow.parquet.ParquetWriter(
                    temporary, table.schema, write_page_checksum=True
                )
            writer.write_table(table)

        with atomic_write(path) as temporary:
            temporary.touch()  # a folder that cannot be written to fails now, not after hours
            try:
                yield add
            finally:
                if writer is not None:
                    writer.close()


@contextmanager
def opened(where: str, source: IO[bytes], size: int) -> Iterator[Any]:
    """Open a file of embeddings for reading, a piece at a time.

    Args:
        where: names it in errors.
        source: the file.
        size: its bytes.

    Yields:
        A `pyarrow.parquet.ParquetFile`.

    Raises:
        UserError: it is no such file, or claims far more numbers than its bytes can hold. What
            goes wrong inside the block becomes one, too.
    """
    arrow = pyarrow_or_refuse()
    try:
        # Read pieces of a column chunk: its length was chosen by the file's writer.
        with arrow.parquet.ParquetFile(
            source,
            buffer_size=1 << 20,
            pre_buffer=False,
            read_dictionary=["id"],
            page_checksum_verification=True,  # numbers that a disk has changed look like others
        ) as file:
            _refuse_claims(where, file.metadata, size)
            yield file
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        arrow.ArrowException,
    ) as error:
        if "CRC" in str(error):
            raise UserError(
                f"{where}: damaged, a checksum is not that of its bytes; remove it and embed again"
                " (a folder with --resume, which adds what is missing)"
            ) from None
        raise UserError(
            f"{where}: not a parquet file with `id` (string) and `embedding` (equally long lists)"
        ) from None


def batches(
    where: str, file: Any, groups: Sequence[int], rows: int, with_ids: bool = True
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield ids and vectors (n, D) of some row groups.

    Args:
        where: names the file in errors.
        file: from `opened`.
        groups: numbers of the row groups.
        rows: n at most.
        with_ids: read the ids; otherwise the lists of ids are empty.
    """
    arrow = pyarrow_or_refuse()
    columns = ["id", "embedding"] if with_ids else ["embedding"]
    for batch in file.iter_batches(rows, row_groups=list(groups), columns=columns):
        ids = _ids(where, arrow, batch.column("id")) if with_ids else []
        yield ids, _vectors(where, arrow, batch.column("embedding"))


def ids_of(where: str, file: Any, rows: int) -> Iterator[list[str]]:
    """Yield all ids of a file from `opened`, at most `rows` at a time."""
    arrow = pyarrow_or_refuse()
    for batch in file.iter_batches(rows, columns=["id"]):
        yield _ids(where, arrow, batch.column("id"))


def group_rows(metadata: Any) -> tuple[int, ...]:
    """Return the number of rows of each row group.

    Raises:
        ValueError: it is not the number of ids that the group holds. Whoever takes memory for each
            row relies on that: `_refuse_claims` bounds ids, not rows.
    """
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(index) for index in range(metadata.num_columns)]
        counts = [chunk.num_values for chunk in columns if chunk.path_in_schema == "id"]
        if counts != [group.num_rows] or group.num_rows < 0:
            raise ValueError("rows without ids")
        found.append(group.num_rows)
    return tuple(found)


def _refuse_claims(where: str, metadata: Any, size: int) -> None:
    """Refuse a file of which repeated values would become more than its bytes can hold."""
    claimed = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            claimed += max(4 * chunk.num_values, chunk.total_uncompressed_size)
    if claimed > most_bytes_of(size):
        raise bomb(where)


def _ids(where: str, arrow: Any, column: Any) -> list[str]:
    """Return the ids of some rows."""
    if column.null_count:
        raise ValueError("an id is missing")
    return texts(arrow, column, lambda longest: refuse_long_id(where, longest))


def texts(arrow: Any, column: Any, check: Callable[[str], None]) -> list[str]:
    """Return the strings of a column that was read as a dictionary (`read_dictionary`).

    A file of some bytes can say that a string of a megabyte stands in each of a million rows. So the
    different strings are looked at before there is one a row.

    Args:
        arrow: the module.
        column: a DictionaryArray of strings.
        check: is called with the longest string.

    Raises:
        ValueError: it is no column of strings.
    """
    if not arrow.types.is_dictionary(column.type):
        raise ValueError("no strings")
    different = column.dictionary
    kind = different.type
    if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
        raise ValueError("no strings")
    if len(different):
        lengths = arrow.compute.binary_length(different).fill_null(0).to_numpy(zero_copy_only=False)
        check(different[int(lengths.argmax())].as_py() or "")
    found: list[str] = column.dictionary_decode().to_pylist()
    return found


def _vectors(where: str, arrow: Any, lists: Any) -> NDArray[np.float32]:
    """Return the vectors (n, D) of some rows."""
    numbers = lists.flatten().to_numpy().astype(np.float32, copy=False)
    sizes = arrow.compute.list_value_length(lists).to_numpy()
    if len(sizes) and (sizes != sizes[0]).any():
        raise unequal(where)
    vectors: NDArray[np.float32] = numbers.reshape(len(lists), -1)
    return vectors


def unequal(where: str) -> UserError:
    """Return the error about vectors of different lengths."""
    return UserError(f"{where}: the lists in `embedding` are not all equally long")


def bomb(where: str) -> UserError:
    """Return the error about a file made to fill memory."""
    return UserError(f"{where}: holds far more numbers than its bytes should; write it again")


def as_table(arrow: Any, ids: list[str], vectors: NDArray[np.float32]) -> Any:
    """Return ids and vectors (N, D) as a table.

    Raises:
        UserError: an id is not UTF-8.
    """
    dim = vectors.shape[1]
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.ravel()), dim)
    try:
        names = arrow.array(ids, arrow.string())
    except UnicodeEncodeError as error:
        raise UserError(
            f"parquet: the id {error.object!r} is not UTF-8, which this format needs; use .npz"
        ) from None
    columns = {
        "id": names,
        "embedding": lists.cast(arrow.list_(arrow.float32(), dim)),
    }
    return arrow.table(columns)


def pyarrow_or_refuse() -> ModuleType:
    """Return the module pyarrow with its parquet; raise UserError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "parquet files need pyarrow: pip install 'speechssl[scale]', or choose .npz"
        ) from None
    module: ModuleType = pyarrow
    return module


FORMAT = Parquet()
