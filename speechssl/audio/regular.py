"""Regular files only: a device, FIFO or socket in a list of files would block a reader, or never end."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from speechssl.errors import UserError

_GIVEN_BY_SHELL = re.compile(r"/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return True if a path exists and is neither a regular file nor a directory."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Raise UserError for a device, FIFO or socket. What does not exist is left to the reader."""
    if is_special(path):
        raise UserError(f"{os.fspath(path)}: is a device, FIFO or socket; give a regular file")


def read_text(path: Path) -> str:
    """Return a text file (UTF-8; other bytes become surrogates, which `os.fsencode` undoes).

    What the shell hands over (`<(sort list)`, `/dev/stdin`) is read, too.

    Raises:
        OSError: it cannot be read.
        UserError: it is a device, FIFO or socket.
    """
    if not _GIVEN_BY_SHELL.fullmatch(str(path)):
        refuse_special_file(path)
    return path.read_text(encoding="utf-8", errors="surrogateescape")
