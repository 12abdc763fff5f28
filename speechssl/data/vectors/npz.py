"""NumPy's `.npz`: `ids` (N,) strings and `embeddings` (N, D) float32.

For windows also `recording` (N,) strings, `start` and `stop` (N,) seconds, and `channel` (N,), 0 for
the mean of all.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.format import AddVectors, Span, Vectors
from speechssl.errors import UserError
from speechssl.files import atomic_write

_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile,
)  # fmt: skip


class Npz:
    """Holds all vectors in memory (N x D x 4 bytes) until the end of writing."""

    suffixes = (".npz",)

    def read(self, path: Path) -> Vectors:
        """Read a file; objects in it are never unpickled."""
        try:
            with np.load(path, allow_pickle=False) as data:
                ids = data["ids"]
                vectors = np.asarray(data["embeddings"], dtype=np.float32)
        except _UNREADABLE:
            raise UserError(
                f"{path}: not a readable .npz with `ids` (strings) and `embeddings` (numbers)"
            ) from None
        if ids.ndim != 1 or vectors.ndim != 2 or len(ids) != len(vectors):
            raise UserError(
                f"{path}: needs ids (N,) and embeddings (N, D), has shapes {ids.shape} and"
                f" {vectors.shape}"
            )
        return ids.astype(str), vectors

    @contextmanager
    def writer(self, path: Path) -> Iterator[AddVectors]:
        """Open a file for writing."""
        ids: list[str] = []
        parts: list[NDArray[np.float32]] = []
        where: list[Span] = []

        def add(
            names: list[str], vectors: NDArray[np.float32], spans: Sequence[Span] | None = None
        ) -> None:
            ids.extend(names)
            parts.append(vectors.copy())
            where.extend(spans or ())

        with atomic_write(path) as temporary:
            temporary.touch()  # a folder that cannot be written to fails now, not after hours
            yield add
            with temporary.open("wb") as file:
                np.savez(
                    file, ids=np.array(ids), embeddings=np.concatenate(parts), **columns(where)
                )


def columns(spans: Sequence[Span]) -> dict[str, NDArray[Any]]:
    """Return spans as columns (N,) by their names; none if there are no spans."""
    if not spans:
        return {}
    return {
        "recording": np.array([span.recording for span in spans]),
        "start": np.array([span.start for span in spans]),
        "stop": np.array([span.stop for span in spans]),
        "channel": np.array([span.channel or 0 for span in spans], dtype=np.int32),
    }


FORMAT = Npz()
