"""Parquet: columns `id` (string) and `embedding` (list of D float32); needs the extra `[scale]`.

For windows also `recording`, `start`, `stop` (seconds) and `channel`, as in `npz`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.format import (
    AddVectors,
    Span,
    Vectors,
    most_bytes,
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
        arrow = _pyarrow()
        ids: list[str] = []
        parts: list[NDArray[np.float32]] = []
        size = 0
        try:
            with arrow.parquet.ParquetFile(path) as file:
                _refuse_claims(path, file.metadata)
                for batch in file.iter_batches(_ROWS, columns=["id", "embedding"]):
                    names, vectors = _rows(path, arrow, batch)
                    ids += names
                    parts.append(vectors)
                    size += vectors.nbytes
                    if size > most_bytes(path):
                        raise _bomb(path)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, arrow.ArrowException):
            raise UserError(
                f"{path}: not a parquet file with `id` (string) and `embedding` (equally long"
                " lists)"
            ) from None
        if len({vectors.shape[1] for vectors in parts}) > 1:
            raise _unequal(path)
        vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
        return np.array(ids, dtype=str), vectors

    @contextmanager
    def writer(self, path: Path) -> Iterator[AddVectors]:
        """Open a file for writing."""
        arrow = _pyarrow()
        writer: Any = None

        def add(
            ids: list[str], vectors: NDArray[np.float32], spans: Sequence[Span] | None = None
        ) -> None:
            nonlocal writer
            table = _as_table(arrow, ids, vectors)
            for name, values in columns(spans or ()).items():
                table = table.append_column(name, arrow.array(values.tolist()))
            if writer is None:
                writer = arrow.parquet.ParquetWriter(temporary, table.schema)
            writer.write_table(table)

        with atomic_write(path) as temporary:
            temporary.touch()  # a folder that cannot be written to fails now, not after hours
            try:
                yield add
            finally:
                if writer is not None:
                    writer.close()


def _refuse_claims(path: Path, metadata: Any) -> None:
    """Refuse a file of which repeated values would become more than `most_bytes`."""
    claimed = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            claimed += max(4 * chunk.num_values, chunk.total_uncompressed_size)
    if claimed > most_bytes(path):
        raise _bomb(path)


def _rows(path: Path, arrow: Any, batch: Any) -> tuple[list[str], NDArray[np.float32]]:
    """Return the ids and vectors (N, D) of some rows."""
    column = batch.column("id")
    if column.null_count or not (
        arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type)
    ):
        raise ValueError("ids are strings")
    ids: list[str] = column.to_pylist()
    for name in ids:
        refuse_long_id(str(path), name)
    lists = batch.column("embedding")
    numbers = lists.flatten().to_numpy().astype(np.float32)
    sizes = arrow.compute.list_value_length(lists).to_numpy()
    if len(sizes) and (sizes != sizes[0]).any():
        raise _unequal(path)
    return ids, numbers.reshape(len(ids), -1)


def _unequal(path: Path) -> UserError:
    return UserError(f"{path}: the lists in `embedding` are not all equally long")


def _bomb(path: Path) -> UserError:
    return UserError(
        f"{path}: holds far more numbers than a file of {path.stat().st_size} bytes should; write"
        " it again"
    )


def _as_table(arrow: Any, ids: list[str], vectors: NDArray[np.float32]) -> Any:
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


def _pyarrow() -> ModuleType:
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
