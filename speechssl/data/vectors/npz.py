"""NumPy's `.npz`: `ids` (N,) strings and `embeddings` (N, D) float32."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.format import AddVectors, Vectors
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

        def add(names: list[str], vectors: NDArray[np.float32]) -> None:
            ids.extend(names)
            parts.append(vectors.copy())

        with atomic_write(path) as temporary:
            temporary.touch()  # a folder that cannot be written to fails now, not after hours
            yield add
            with temporary.open("wb") as file:
                np.savez(file, ids=np.array(ids), embeddings=np.concatenate(parts))


FORMAT = Npz()
