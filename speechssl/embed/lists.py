"""Lists of recordings as parquet: columns `id` and `path`, and for pieces `start` and `stop` (seconds).

That is what a catalogue of 100 million recordings is kept in. A path is a file, a member of a tar
archive (`shard-000001.tar:512:90000.flac`) or an address that the user allowed, as in wav.scp; shell
pipes are not run. A list is read a slice at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.audio.regular import refuse_special_file
from speechssl.audio.remotes import Remotes
from speechssl.data.manifest import Utterance
from speechssl.data.vectors.format import most_bytes, refuse_long_id
from speechssl.data.vectors.parquet import pyarrow_or_refuse
from speechssl.errors import UserError

ENDING = ".parquet"

_LONGEST_PATH = 10_000  # characters


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
    """Return all rows of a list, in slices of at most `most`; only its metadata are read.

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


def read_slice(piece: Slice, remotes: Remotes) -> list[Utterance]:
    """Return the utterances of a slice.

    Raises:
        UserError: the columns are not there or of another type, or a cell is empty.
    """
    arrow = pyarrow_or_refuse()
    try:
        with arrow.parquet.ParquetFile(piece.path) as file:
            names = set(file.schema_arrow.names)
            wanted = [name for name in ("id", "path", "start", "stop") if name in names]
            table = file.read_row_group(piece.group, columns=wanted)
        table = table.slice(piece.first, piece.rows)
        columns = {name: table[name].to_pylist() for name in wanted}
        ids = columns["id"]
        paths = columns["path"]
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise _not_a_list(piece.path) from error
    starts = columns.get("start", [None] * len(ids))
    stops = columns.get("stop", [None] * len(ids))
    found = []
    for row in zip(ids, paths, starts, stops, strict=True):
        found.append(_utterance(piece.path, row, remotes))
    return found


def _utterance(where: str, row: Sequence[Any], remotes: Remotes) -> Utterance:
    """Return the utterance of a row: id, path, start, stop."""
    name, path, start, stop = row
    if not isinstance(name, str) or not isinstance(path, str) or not name or not path:
        raise UserError(f"{where}: the id {str(name)[:60]!r} or its path is empty or no text")
    refuse_long_id(where, name)
    if len(path) > _LONGEST_PATH or "\0" in path:
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
