"""Temporary folders that the next run removes if their process was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from speechssl.errors import UserError, writing
from speechssl.files import is_dead
from speechssl.locks import sole_writer

_PREFIX = "speechssl-scratch-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a temporary folder, and remove it at the end.

    Folders that killed processes of this user have left are removed first. They are told by their
    lock, which ends with its process.

    Raises:
        UserError: no temporary folder can be written.
    """
    _sweep(Path(_temporary_folder()))
    with writing(_temporary_folder()):
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        with sole_writer(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise UserError(f"no temporary folder can be written ({error}); set TMPDIR") from None


def _sweep(parent: Path) -> None:
    """Remove the scratch folders in `parent` whose processes have ended."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, UserError):  # removed by another, or in use
            process = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if not process.isdecimal() or not is_dead(int(process)):
                continue  # of another program, or perhaps made and not locked yet
            about = folder.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
                continue
            with sole_writer(folder):
                shutil.rmtree(folder, ignore_errors=True)
