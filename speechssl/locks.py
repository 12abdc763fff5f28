"""One writer an output: a second process that wants to write the same file or folder is refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from speechssl.errors import UserError, writing
from speechssl.files import remove_leftovers, remove_partial

try:
    import fcntl
except ImportError:  # Windows has no such locks: two writers there are the user's to avoid
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def sole_writer(output: str | Path) -> Iterator[None]:
    """Hold the lock of an output file or folder; a second process that wants it is refused.

    What killed processes have left while they wrote the file is swept; for a folder,
    `sole_writer_in` does so.

    The lock is the kernel's, on a hidden file in the folder (or beside the file): it ends with the
    process that holds it, however that ends. Where the file system knows no locks, none is taken.

    Raises:
        UserError: another process holds it, or the lock cannot be written.
    """
    output = Path(output)
    path = output / ".lock" if output.is_dir() else output.with_name(f".{output.name}.lock")
    file = _lock(path, output)
    try:
        if not output.is_dir():
            remove_partial(output)
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is locked: so no other process's is removed
            file.close()


@contextlib.contextmanager
def sole_writer_in(folder: str | Path) -> Iterator[None]:
    """Make a folder, hold its lock as `sole_writer` does, and sweep what killed writers have left.

    If nothing was written into a folder that was not there before, it is removed again.

    Raises:
        UserError: another process holds the lock, or the folder cannot be made.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with sole_writer(folder):
            remove_leftovers(folder)
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _lock(path: Path, output: Path) -> IO[str] | None:
    if fcntl is None:
        return None
    while True:
        with writing(output):
            file = open(path, "a+", encoding="ascii")  # noqa: SIM115 (closed by `sole_writer`)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip()
            file.close()
            who = f" (process {holder})" if holder.isdigit() else ""
            raise UserError(
                f"{output}: another process{who} is writing it; wait for it, or give another --out"
            ) from None
        except OSError:  # a file system without locks
            file.close()
            return None
        if _is_still(path, file):
            _sign(path, file, output)
            return file
        file.close()  # its holder removed it while we waited to open it: take the new one


def _sign(path: Path, file: IO[str], output: Path) -> None:
    """Write the number of this process into its lock; on a full disk, the lock is given back."""
    try:
        with writing(output):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
    except UserError:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it tries to write once more
            file.close()
        raise


def _is_still(path: Path, file: IO[str]) -> bool:
    """True if `path` names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
