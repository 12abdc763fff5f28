"""What a format of embedding files is, and what formats share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.tables import MAX_ID
from speechssl.errors import UserError

Vectors = tuple[NDArray[np.str_], NDArray[np.float32]]
"""Ids (N,) and embeddings (N, D)."""

Row = tuple[str, NDArray[Any]]
"""One id and its embedding (D,)."""


class Span(NamedTuple):
    """Where an utterance lies in a recording.

    Attributes:
        recording: id of the recording.
        start: seconds.
        stop: seconds.
        channel: from 1; None: the mean of all.
    """

    recording: str
    start: float
    stop: float
    channel: int | None = None


class AddVectors(Protocol):
    """Adds ids and embeddings (N, D) to the file that is being written."""

    def __call__(
        self, ids: list[str], vectors: NDArray[np.float32], spans: Sequence[Span] | None = None
    ) -> None:
        """Add them.

        Args:
            ids: N of them.
            vectors: (N, D).
            spans: where each of them lies, for windows of recordings: every call gives them, or
                none does. A format that cannot hold them leaves them out: the ids say it, too.
        """
        ...


STANDARD_STREAM = "-"
"""The name of standard input and output, in place of a file's."""

_ALWAYS_READ = 64 << 20  # bytes
_MOST_COMPRESSION = 50  # times; vectors compress to a half, padded ids to a twentieth


def most_bytes(path: Path) -> int:
    """Return how many bytes may come out of a file: far more is an archive made to fill memory."""
    return most_bytes_of(path.stat().st_size)


def most_bytes_of(size: int) -> int:
    """Return how many bytes may come out of files of `size` bytes."""
    return _ALWAYS_READ + _MOST_COMPRESSION * size


class Format(Protocol):
    """A way to store embeddings: an object that a module of this folder names ``FORMAT``."""

    suffixes: tuple[str, ...]
    """Endings of file names, in lower case and with their dot, that mean this format."""

    def read(self, path: Path) -> Vectors:
        """Read a file that exists.

        Raises:
            UserError: it is not in this format, or cut off.
        """
        ...

    def writer(self, path: Path) -> AbstractContextManager[AddVectors]:
        """Open a file for writing.

        The file must be complete when the context ends, and must not appear (nor an older one
        change) if it ends with an exception: see `speechssl.files.atomic_write`.
        """
        ...


def from_rows(where: str, rows: Iterable[Row]) -> Vectors:
    """Collect rows.

    Raises:
        UserError: a row has no numbers, or not as many as those before it, or an id is too long.
    """
    ids: list[str] = []
    vectors: list[NDArray[Any]] = []
    for name, vector in rows:
        if not len(vector):
            raise UserError(f"{where}: no numbers after {name[:60]!r}; is it an embeddings file?")
        if vectors and len(vector) != len(vectors[0]):
            raise UserError(
                f"{where}: {name!r} has {len(vector)} numbers where those before have"
                f" {len(vectors[0])}"
            )
        refuse_long_id(where, name)
        ids.append(name)
        vectors.append(vector)
    return np.array(ids, dtype=str), np.array(vectors, dtype=np.float32)


def refuse_long_id(where: str, name: str) -> None:
    """Raise UserError for an id so long that an array with room for it in every row fills memory."""
    if len(name) > MAX_ID:
        raise UserError(f"{where}: the id {name[:40]!r}... has {len(name)} characters; shorten it")


def refuse_white_space(where: str, ids: Iterable[str]) -> None:
    """Raise UserError if an id cannot stand in a line of fields."""
    for name in ids:
        if name.split() != [name]:
            raise UserError(
                f"{where}: the id {name!r} is empty or has white space, which this format cannot"
                " hold; use .npz"
            )
