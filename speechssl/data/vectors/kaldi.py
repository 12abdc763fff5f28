"""Kaldi's float vectors, read and written byte by byte, and vectors as lines of text; see
`vectors.py`.

The format (Kaldi's `Vector<Real>::Write`): the id, a space, `\\0B`, `FV ` (float) or `DV `
(double), the byte 4, the length as int32, the numbers, little-endian. A line of an scp is `id
archive.ark:offset`, the offset that of `\\0B`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError

Row = tuple[str, NDArray[Any]]


def pack_vector(vector: NDArray[np.float32]) -> bytes:
    """The bytes of one vector (D,), from `\\0B` on."""
    return b"\0BFV \4" + struct.pack("<i", len(vector)) + vector.astype("<f4").tobytes()


def read_text(lines: Iterable[str], where: str) -> Iterator[Row]:
    """Vectors from lines of an id and numbers, with or without Kaldi's brackets."""
    for number, line in enumerate(lines, 1):
        name, *values = line.split() or [""]
        try:
            yield (
                name,
                np.array([float(value) for value in values if value not in "[]"], dtype=np.float32),
            )
        except ValueError:
            raise UserError(
                f"{where}, line {number}: not an id followed by numbers: {line.strip()[:60]!r}"
            ) from None


def read_ark(file: Path) -> Iterator[Row]:
    """Vectors of a Kaldi archive in its order, binary or text; a cut-off or foreign one is a
    UserError.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        if size and b"\0B" not in handle.read(4096):
            yield from read_text(_lines(file), str(file))
            return
        handle.seek(0)
        while handle.tell() < size:
            key = bytearray()
            while (byte := handle.read(1)) not in (b" ", b"") and len(key) < 4096:
                key += byte
            yield key.decode("utf-8", "replace"), unpack_vector(handle, str(file))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")


def read_scp(file: Path) -> Iterator[Row]:
    """Vectors that an scp points to, by seeking; paths are relative to the working directory, as in
    Kaldi.
    """
    entries: list[tuple[str, str, int]] = []
    for number, line in enumerate(_lines(file), 1):
        name, _, place = line.strip().partition(" ")
        ark, _, offset = place.strip().rpartition(":")
        if not ark or not offset.isdigit():
            raise UserError(
                f"{file}, line {number}: not `id archive.ark:offset` (pipes are not run):"
                f" {line[:80]!r}"
            )
        entries.append((name, ark, int(offset)))
    for ark, group in groupby(entries, key=lambda entry: entry[1]):
        try:
            with open(ark, "rb") as handle:
                for name, _, start in group:
                    handle.seek(start)
                    yield name, unpack_vector(handle, ark)
        except OSError as error:
            raise UserError(f"{file}: {ark} cannot be read ({error.strerror})") from None


def unpack_vector(handle: BinaryIO, where: str) -> NDArray[Any]:
    """The vector (D,) that begins at the handle's position."""
    header = handle.read(10)
    kind = {b"FV ": "<f4", b"DV ": "<f8"}.get(header[2:5])
    if len(header) < 10 or header[:2] != b"\0B" or kind is None or header[5] != 4:
        raise UserError(
            f"{where}: no Kaldi vector at byte {handle.tell() - len(header)}; cut off or of another"
            " kind?"
        )
    (dim,) = struct.unpack("<i", header[6:])
    data = handle.read(max(dim, 0) * np.dtype(kind).itemsize)
    if dim < 0 or len(data) != dim * np.dtype(kind).itemsize:
        raise UserError(f"{where}: cut off in the vector that ends the file; write it again")
    return np.frombuffer(data, kind)
