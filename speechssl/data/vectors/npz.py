"""NumPy's `.npz`: `ids` (N,) strings and `embeddings` (N, D) float32.

For windows also `recording` (N,) strings, `start` and `stop` (N,) seconds, and `channel` (N,), 0 for
the mean of all.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.format import AddVectors, Span, Vectors, most_bytes
from speechssl.errors import UserError
from speechssl.files import atomic_write

_KINDS = {"ids.npy": "USiu", "embeddings.npy": "fiu"}
"""Member -> kinds of NumPy types that it may hold: strings and numbers."""


class Npz:
    """Holds all vectors in memory (N x D x 4 bytes) until the end of writing."""

    suffixes = (".npz",)

    def read(self, path: Path) -> Vectors:
        """Read a file; objects in it are never unpickled."""
        try:
            _refuse_claims(path)
            with np.load(path, allow_pickle=False) as data:
                ids = data["ids"]
                vectors = np.asarray(data["embeddings"], dtype=np.float32)
        except UserError:
            raise
        except Exception:  # zipfile, zlib and NumPy have a dozen kinds for damage
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
        names: list[str] = []
        parts: list[NDArray[np.float32]] = []
        where: list[Span] = []

        def add(
            ids: list[str], vectors: NDArray[np.float32], spans: Sequence[Span] | None = None
        ) -> None:
            names.extend(ids)
            parts.append(vectors.copy())
            where.extend(spans or ())

        with atomic_write(path) as temporary:
            temporary.touch()  # a folder that cannot be written to fails now, not after hours
            yield add
            with temporary.open("wb") as file:
                arrays: dict[str, Any] = {"ids": np.array(names), **columns(where)}
                np.savez(file, embeddings=np.concatenate(parts), **arrays)


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


def _refuse_claims(path: Path) -> None:
    """Refuse arrays of other types, and more bytes than the file can hold, before they are read."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.getinfo(name) for name in _KINDS}
        claimed = sum(member.file_size for member in members.values())
        if claimed > most_bytes(path):
            raise UserError(
                f"{path}: claims {claimed >> 20} MB, too many for a file of"
                f" {path.stat().st_size} bytes; write it again"
            )
        for name, member in members.items():
            with archive.open(member) as file:
                shape, dtype = _header(file)
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind not in _KINDS[name] or min(shape, default=0) < 0:
                raise ValueError(f"an array of {dtype}")
            if size > member.file_size:
                raise UserError(
                    f"{path}: {name} is cut off, or claims {size} bytes; write it again"
                )


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of a .npy file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version}")
    return shape, dtype


FORMAT = Npz()
