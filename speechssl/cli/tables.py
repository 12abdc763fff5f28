"""Writes the lines that a verb's answer consists of: to standard output, a pipe or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path


def write_lines(out: str, lines: Callable[[], Iterable[str]]) -> None:
    """Write lines, one at a time; a file is written whole or not at all.

    Args:
        out: path of the file, in a folder that is made if need be; ``-``: standard output. A pipe
            or terminal that lies at the path is written to.
        lines: what gives the lines, each with its end; called when it is known that `out` can be
            written.

    Raises:
        UserError: the file cannot be written, or another process writes it.
    """
    if out == "-":
        sys.stdout.writelines(lines())
        return
    from speechssl.errors import writing
    from speechssl.files import atomic_write
    from speechssl.locks import sole_writer

    path = Path(out)
    if _is_stream(out):  # there is nothing to replace
        with writing(path):
            _write(path, lines())
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(path), writing(path), atomic_write(path) as temporary:
        _write(temporary, lines())


def cell_text(out: str) -> Callable[[str], str]:
    """Return how somebody else's names stand in a table that `write_lines` writes to `out`.

    A file may be opened by a spreadsheet: `text.tsv_cell`. What goes to standard output or into a
    pipe is read by a program, which gets names as they are: `text.tsv_field`.
    """
    from speechssl.text import tsv_cell, tsv_field

    return tsv_field if _is_stream(out) else tsv_cell


def _is_stream(out: str) -> bool:
    """True for standard output, a pipe and a terminal."""
    return out == "-" or (Path(out).exists() and not Path(out).is_file())


def _write(path: Path, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(lines)
