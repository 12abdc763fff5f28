"""Regular files only: a device, FIFO or socket in a list of files would block a reader, or never end."""

from __future__ import annotations

import os
import re
import stat
from functools import cache
from pathlib import Path

from speechssl.errors import UserError

_GIVEN_BY_SHELL = re.compile(r"/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return True if a path exists and is neither a regular file nor a directory.

    Files of the kernel (below `/proc`) are none, whatever they call themselves: `/proc/kmsg` blocks
    its reader.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(status.st_mode):
        return status.st_dev == _device_of_proc()
    return not stat.S_ISDIR(status.st_mode)


@cache
def _device_of_proc() -> int | None:
    """Return the number of the file system at `/proc`; None where there is none of its own."""
    try:
        found = os.stat("/proc").st_dev
        return None if found == os.stat("/").st_dev else found
    except OSError:
        return None


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Raise UserError for a device, FIFO, socket or file of the kernel.

    What does not exist is left to the reader.
    """
    if is_special(path):
        raise UserError(
            f"{os.fspath(path)}: is a device, FIFO, socket or file of the kernel; give a regular file"
        )


def first_bytes(path: str | os.PathLike[str], count: int) -> bytes:
    """Return the first bytes of a file, without ever waiting for them.

    Files of the kernel (`/proc/kmsg`) are regular by their type and block their reader.

    Raises:
        UserError: the file has nothing to give at once.
        OSError: it cannot be opened or read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        return os.read(descriptor, count)
    except BlockingIOError as error:
        raise UserError(f"{os.fspath(path)}: makes its reader wait; give a regular file") from error
    finally:
        os.close(descriptor)


def read_text(path: Path, remedy: str, remedy_if_missing: str | None = None) -> str:
    """Return a text file (UTF-8; other bytes become surrogates, which `os.fsencode` undoes).

    What the shell hands over (`<(sort list)`, `/dev/stdin`) is read, too.

    Args:
        path: the file.
        remedy: what to do about a file that cannot be read.
        remedy_if_missing: what to do about one that is not there; None: the same.

    Raises:
        UserError: it is not there, cannot be read, is a device, FIFO or socket, or holds null bytes.
    """
    if not _GIVEN_BY_SHELL.fullmatch(str(path)):
        refuse_special_file(path)
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and remedy_if_missing is not None:
            raise UserError(f"{path}: no such file; {remedy_if_missing}") from error
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if "\0" in text:
        raise UserError(f"{path}: holds null bytes, so it is no text file; write it again")
    return text
