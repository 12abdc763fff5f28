"""Kaldi's `.ark` and `.scp`: float vectors, and an index of where each one is.

For windows `.segments` lies beside them: id, recording, start and stop in seconds.

The format (Kaldi's `Vector<Real>::Write`): the id, a space, `\\0B`, `FV ` (float) or `DV `
(double), the byte 4, the length as int32, the numbers, little-endian. A line of an scp is `id
archive.ark:offset`, the offset that of `\\0B`. These few bytes are read here, without
kaldi_native_io: that one meets a cut-off archive with a warning and ends early, and a wrong file
with a screenful.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.format import (
    AddVectors,
    Row,
    Span,
    Vectors,
    from_rows,
    refuse_white_space,
)
from speechssl.data.vectors.text import read_lines
from speechssl.errors import UserError
from speechssl.files import atomic_write_together, write_text
from speechssl.regular import refuse_special_file

_DTYPES = {b"FV ": "<f4", b"DV ": "<f8"}
_OFFSET = re.compile("[0-9]{1,18}")
_LOOK = 4096  # bytes in which a binary archive has its first vector, and an id ends


class Kaldi:
    """Both files are written, whichever of the two is named."""

    suffixes = (".ark", ".scp")

    def read(self, path: Path) -> Vectors:
        """Read an archive, binary or text, or the vectors to which an scp points."""
        rows = read_scp(path) if path.suffix.lower() == ".scp" else read_ark(path)
        return from_rows(str(path), rows)

    @contextmanager
    def writer(self, path: Path) -> Iterator[AddVectors]:
        """Open an archive and its scp for writing; the scp appears last.

        While the scp exists, its offsets belong to the archive beside it.
        """
        ark_path = path.with_suffix(".ark")
        scp_path = path.with_suffix(".scp")
        where: dict[str, Span] = {}
        with (
            atomic_write_together([ark_path, scp_path]) as temporary,
            temporary[ark_path].open("wb") as ark,
            temporary[scp_path].open("w", encoding="utf-8", errors="surrogateescape") as scp,
        ):

            def add(
                ids: list[str],
                vectors: NDArray[np.float32],
                spans: Sequence[Span] | None = None,
            ) -> None:
                refuse_white_space(str(ark_path), ids)
                for name, vector in zip(ids, vectors, strict=True):
                    ark.write(f"{name} ".encode(errors="surrogateescape"))
                    scp.write(f"{name} {ark_path}:{ark.tell()}\n")
                    ark.write(pack_vector(vector))
                where.update(zip(ids, spans or ()))

            yield add
            _write_segments(path.with_suffix(".segments"), where)


def _write_segments(path: Path, spans: Mapping[str, Span]) -> None:
    """Write Kaldi's `segments` of windows; without any an old file is removed."""
    if not spans:
        path.unlink(missing_ok=True)
        return
    lines = []
    for name, span in spans.items():
        lines.append(f"{name} {span.recording} {span.start:.3f} {span.stop:.3f}\n")
    write_text(path, "".join(lines))


def pack_vector(vector: NDArray[np.float32]) -> bytes:
    """Return the bytes of one vector (D,), from `\\0B` on."""
    return b"\0BFV \4" + struct.pack("<i", len(vector)) + vector.astype("<f4").tobytes()


def unpack_vector(file: BinaryIO, where: str) -> NDArray[Any]:
    """Return the vector (D,) that begins at the file's position.

    Raises:
        UserError: there is none, or it is cut off.
    """
    header = file.read(10)
    dtype = _DTYPES.get(header[2:5])
    if len(header) < 10 or header[:2] != b"\0B" or dtype is None or header[5] != 4:
        raise UserError(
            f"{where}: no Kaldi vector at byte {file.tell() - len(header)}; cut off or of another"
            " kind?"
        )
    (dim,) = struct.unpack("<i", header[6:])
    size = dim * np.dtype(dtype).itemsize
    left = os.fstat(file.fileno()).st_size - file.tell()
    if not 0 <= size <= left:
        raise UserError(f"{where}: cut off in the vector that ends the file; write it again")
    return np.frombuffer(file.read(size), dtype)


def read_ark(path: Path) -> Iterator[Row]:
    """Yield the vectors of an archive in its order, binary or text.

    Raises:
        UserError: it is cut off or something else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size and b"\0B" not in file.read(_LOOK):
            yield from read_lines(_lines(path), str(path))
            return
        file.seek(0)
        while file.tell() < size:
            name = _read_id(file)
            yield name, unpack_vector(file, str(path))


def _read_id(file: BinaryIO) -> str:
    """Return the id at the file's position, which moves behind the space that ends it."""
    name = bytearray()
    while len(name) < _LOOK:
        byte = file.read(1)
        if byte in (b" ", b""):
            break
        name += byte
    return name.decode("utf-8", "surrogateescape")


def read_scp(path: Path) -> Iterator[Row]:
    """Yield the vectors to which an scp points, in its order, by seeking.

    Paths are relative to the working directory, as in Kaldi.

    Raises:
        UserError: a line is not `id archive:offset`, or an archive cannot be read.
    """
    entries: list[tuple[str, str, int]] = []
    for number, line in enumerate(_lines(path), start=1):
        name, _, place = line.strip().partition(" ")
        ark, _, offset = place.strip().rpartition(":")
        if not ark or not _OFFSET.fullmatch(offset):
            raise UserError(
                f"{path}, line {number}: not `id archive.ark:offset` (pipes are not run):"
                f" {line[:80]!r}"
            )
        entries.append((name, ark, int(offset)))
    bytes_left: dict[str, int] = {}
    for ark, group in groupby(entries, key=lambda entry: entry[1]):
        refuse_special_file(ark)
        try:
            with open(ark, "rb") as file:
                bytes_left.setdefault(ark, os.fstat(file.fileno()).st_size)
                yield from _vectors_at(file, ark, group, bytes_left)
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path}: {ark[:200]} cannot be read ({reason})") from None


def _vectors_at(
    file: BinaryIO,
    ark: str,
    entries: Iterable[tuple[str, str, int]],
    bytes_left: dict[str, int],
) -> Iterator[Row]:
    """Yield the vectors at some offsets of an archive.

    Args:
        file: the archive.
        ark: its path.
        entries: id, path and offset of each vector.
        bytes_left: archive -> bytes of it that may still be read; is counted down.

    Raises:
        UserError: they have more bytes than the archive: offsets that name the same vector again
            and again could ask for any amount of memory.
    """
    for name, _, offset in entries:
        file.seek(offset)
        vector = unpack_vector(file, ark)
        bytes_left[ark] -= vector.nbytes
        if bytes_left[ark] < 0:
            raise UserError(f"{ark}: the scp names its vectors more than once; write it again")
        yield name, vector


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n").split("\n")


FORMAT = Kaldi()
