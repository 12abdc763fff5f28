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

from speechssl.data.vectors.format import AddVectors, Span, Vectors
from speechssl.data.vectors.npz import columns
from speechssl.errors import UserError
from speechssl.files import atomic_write


class Parquet:
    """Written as the vectors come, a row group at a time."""

    suffixes = (".parquet",)

    def read(self, path: Path) -> Vectors:
        """Read a file."""
        arrow = _pyarrow()
        try:
            table = arrow.parquet.read_table(path, columns=["id", "embedding"]).combine_chunks()
            ids = np.array(table["id"].to_pylist(), dtype=str)
            lists = table["embedding"]
            numbers = lists.combine_chunks().flatten().to_numpy().astype(np.float32)
            vectors = numbers.reshape(len(ids), -1)
            sizes = arrow.compute.list_value_length(lists).to_numpy()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, arrow.ArrowException):
            raise UserError(
                f"{path}: not a parquet file with `id` (string) and `embedding` (equally long"
                " lists)"
            ) from None
        if len(sizes) and (sizes != vectors.shape[1]).any():
            raise UserError(f"{path}: the lists in `embedding` are not all equally long")
        return ids, vectors

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
