"""Text on the standard streams (`-`): a line is the id and D numbers, separated by spaces."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.format import (
    STANDARD_STREAM,
    AddVectors,
    Row,
    Span,
    Vectors,
    from_rows,
    refuse_white_space,
)
from speechssl.errors import UserError

_LONGEST_LINE = 4_000_000  # characters, of some 300,000 numbers


class Text:
    """Numbers have nine digits, which float32 needs to come back unchanged."""

    suffixes = (STANDARD_STREAM,)

    def read(self, path: Path) -> Vectors:
        """Read standard input."""
        return from_rows("standard input", read_lines(sys.stdin, "standard input"))

    @contextmanager
    def writer(self, path: Path) -> Iterator[AddVectors]:
        """Write to standard output, as the vectors come."""

        def add(
            ids: list[str], vectors: NDArray[np.float32], spans: Sequence[Span] | None = None
        ) -> None:
            refuse_white_space(STANDARD_STREAM, ids)
            numbers = " ".join(["%.9g"] * vectors.shape[1])
            for name, vector in zip(ids, vectors, strict=True):
                sys.stdout.write(f"{name} {numbers % tuple(vector)}\n")

        try:
            yield add
        finally:
            sys.stdout.flush()


def read_lines(lines: Iterable[str], where: str) -> Iterator[Row]:
    """Read vectors from lines of an id and numbers, with or without Kaldi's brackets.

    Raises:
        UserError: a line is something else; `where` and its number are named.
    """
    for number, line in enumerate(lines, start=1):
        if len(line) > _LONGEST_LINE:
            raise UserError(f"{where}, line {number}: has {len(line)} characters; not an embedding")
        name, *fields = line.split() or [""]
        try:
            values = [float(field) for field in fields if field not in "[]"]
        except ValueError:
            raise UserError(
                f"{where}, line {number}: not an id followed by numbers: {line.strip()[:60]!r}"
            ) from None
        yield name, np.array(values, dtype=np.float32)


FORMAT = Text()
