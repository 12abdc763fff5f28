"""Lists of recordings as parquet: columns `id` and `path`, and for pieces `start` and `stop` (seconds).

That is what a catalogue of 100 million recordings is kept in. A path is a file, a member of a tar
archive (`shard-000001.tar:512:90000.flac`) or an address that the user allowed, as in wav.scp; shell
pipes are not run. A list is read a slice at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.audio.remotes import Remotes
from speechssl.data.manifest import Utterance
from speechssl.data.vectors.format import most_bytes, refuse_long_id
from speechssl.data.vectors.parquet import pyarrow_or_refuse, texts
from speechssl.errors import UserError
from speechssl.regular import refuse_special_file

ENDING = ".parquet"

_LONGEST_PATH = 10_000  # characters


OnBad = Callable[[str, str], None]
"""Called for a row that cannot be used: its id, and the reason in one line."""


class Slice(NamedTuple):
    """Some rows of a list.

    Attributes:
        path: of the list.
        group: number of the row group.
        first: row within the group.
        rows: number of them.
    """

    path: str
    group: int
    first: int
    rows: int


def is_list(path: Path) -> bool:
    """True if an input is such a list."""
    return path.suffix.lower() == ENDING and path.is_file()


def slices(path: str | Path, most: int) -> list[Slice]:
    """Return all rows of a list, in slices of at most `most`, each of one row group.

    Only the list's metadata are read.

    Raises:
        UserError: it is no such list, or claims more rows than its bytes can hold.
    """
    arrow = pyarrow_or_refuse()
    refuse_special_file(path)
    found = []
    try:
        metadata = arrow.parquet.read_metadata(path)
        claimed = 0
        for group in range(metadata.num_row_groups):
            about = metadata.row_group(group)
            claimed += max(8 * about.num_rows, about.total_byte_size)
            if about.num_rows < 0 or claimed > most_bytes(Path(path)):
                raise UserError(f"{path}: claims far more rows than its bytes can hold")
            for first in range(0, about.num_rows, most):
                count = min(most, about.num_rows - first)
                found.append(Slice(str(path), group, first, count))
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise _not_a_list(str(path)) from error
    return found


def read_slice(piece: Slice, remotes: Remotes, on_bad: OnBad | None = None) -> list[Utterance]:
    """Return the utterances of a slice.

    Args:
        piece: the slice.
        remotes: addresses that a path may name.
        on_bad: is called with the id of a row that cannot be used, and the reason; None: the first
            one is an error.

    Raises:
        UserError: the columns are not there or of another type, an id or path is longer than any,
            or without `on_bad` a row cannot be used.
    """
    arrow = pyarrow_or_refuse()
    try:
        with arrow.parquet.ParquetFile(piece.path, read_dictionary=["id", "path"]) as file:
            names = set(file.schema_arrow.names)
            wanted = [name for name in ("id", "path", "start", "stop") if name in names]
            table = file.read_row_group(piece.group, columns=wanted)
        table = table.slice(piece.first, piece.rows)
        columns = {name: table[name].to_pylist() for name in wanted if name in ("start", "stop")}
        ids = _texts(arrow, table["id"], lambda name: refuse_long_id(piece.path, name))
        paths = _texts(arrow, table["path"], lambda path: _refuse_long_path(piece.path, path))
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise _not_a_list(piece.path) from error
    starts = columns.get("start", [None] * len(ids))
    stops = columns.get("stop", [None] * len(ids))
    found = []
    for row in zip(ids, paths, starts, stops, strict=True):
        try:
            found.append(_utterance(piece.path, row, remotes))
        except UserError as error:
            if on_bad is None:
                raise
            on_bad(str(row[0] or ""), str(error))
    return found


def read_ids(path: str) -> Iterator[list[str]]:
    """Yield the ids of a list, a row group at a time; rows without one are passed over.

    Raises:
        UserError: the column is not there or of another type, or an id is longer than any.
    """
    arrow = pyarrow_or_refuse()
    try:
        with arrow.parquet.ParquetFile(path, read_dictionary=["id"]) as file:
            for group in range(file.metadata.num_row_groups):
                column = file.read_row_group(group, columns=["id"])["id"]
                ids = _texts(arrow, column, lambda name: refuse_long_id(path, name))
                yield [name for name in ids if name]
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise _not_a_list(path) from error


def _texts(arrow: Any, column: Any, check: Callable[[str], None]) -> list[str]:
    """Return the strings of a column; see `parquet.texts`."""
    return [text for chunk in column.chunks for text in texts(arrow, chunk, check)]


def _refuse_long_path(where: str, path: str) -> None:
    if len(path) > _LONGEST_PATH:
        raise UserError(f"{where}: {path[:60]!r}... is no path; write the list again")


def _utterance(where: str, row: Sequence[Any], remotes: Remotes) -> Utterance:
    """Return the utterance of a row: id, path, start, stop."""
    name, path, start, stop = row
    if not isinstance(name, str) or not isinstance(path, str) or not name or not path:
        raise UserError(f"{where}: the id {str(name)[:60]!r} or its path is empty or no text")
    if "\0" in path:
        raise UserError(f"{where}: the path of {name!r} is no path; write the list again")
    first = _seconds(where, name, start)
    last = _seconds(where, name, stop)
    length = 0.0 if last is None else last - (first or 0.0)
    return Utterance(name, remotes.permit(path), first or 0.0, last, max(0.0, length))


def _seconds(where: str, name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: {name!r} begins or ends at {str(value)[:40]!r}; give seconds")
    return float(value)


def _not_a_list(path: str) -> UserError:
    return UserError(
        f"{path}: not a parquet file with the columns `id` and `path` (strings), and perhaps `start`"
        " and `stop` (seconds)"
    )
