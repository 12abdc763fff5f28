"""JSON that somebody else wrote: data of a bounded size, in which whatever is wrong is one line.

Results, logs and figures of a downloaded experiment are read by `speechssl report` and its like.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechssl.errors import UserError
from speechssl.regular import is_special, refuse_special_file

_MOST_BYTES = 8 << 20  # of `{},{},...` Python makes 25 times as much
_LONGEST_LINE = 1 << 20  # bytes of a line of a log

_DAMAGE = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError,
)  # fmt: skip


def read(path: Path, remedy: str = "write it again") -> dict[str, Any]:
    """Return the object in a JSON file; `remedy` is what to do if it is damaged.

    Raises:
        UserError: it is not there, no regular file, no such object, too deep, or over 8 MiB.
    """
    refuse_special_file(path)
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file; check the path")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path}: is longer than {_MOST_BYTES} bytes; not read")
    return _object(path, data, remedy)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the object on each line of a log; a last line that a kill has cut is passed over.

    Raises:
        UserError: it cannot be read, or a line is no such object or over 1 MiB.
    """
    refuse_special_file(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        with open(path, "rb") as file:
            while line := file.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:
                    raise UserError(
                        f"{path}: a line is longer than {_LONGEST_LINE} bytes; not read"
                    )
                if line.endswith(b"\n") and line.strip():
                    yield _object(path, line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def lines_up_to(path: Path, step: int, key: str = "step") -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the lines of a log up to a step, each with what it says.

    A line that is no such object, or over 1 MiB, is left out. A path that is no regular file yields
    nothing.

    Args:
        path: of the log.
        step: the last one that is kept.
        key: under which a line has its step.
    """
    if not path.is_file() or is_special(path):
        return
    with open(path, "rb") as file:
        while line := file.readline(_LONGEST_LINE):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and type(entry.get(key)) is int and entry[key] <= step:
                yield line.rstrip(b"\r\n") + b"\n", entry


def _object(path: Path, data: bytes, remedy: str = "write it again") -> dict[str, Any]:
    with damage(path, remedy):
        found = json.loads(data)
        if not isinstance(found, dict):
            raise TypeError("not a JSON object")
    return found


@contextmanager
def damage(path: Path, remedy: str = "write it again") -> Iterator[None]:
    """Turn what wrong types and missing keys raise into a UserError that names the file.

    For a block that only looks at what was read from `path`.
    """
    try:
        yield
    except _DAMAGE as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path}: is damaged ({type(error).__name__}: {detail}); {remedy}"
        ) from error


def is_number(value: Any) -> bool:
    """Return True for a float (NaN and infinity, too), or an int that can be one; not for a bool."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, float)
