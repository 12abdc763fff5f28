"""Errors: the exception that a user sees, and the record of a file that could not be read."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class UserError(Exception):
    """A mistake that a user can cause and correct.

    The message is one line: what is wrong, where, and what to do. The command line prints it and
    exits with code 2; from Python it is an ordinary exception. A notebook shows the line alone.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"UserError: {self}"]


class CannotWrite(UserError):
    """The disk has refused what is written; no input is to blame."""


class MachineError(Exception):
    """The machine has run out of something, which is no fault of the file that is being read.

    So no file is left out for it: the command ends. The message is one line.
    """


@dataclass(frozen=True)
class Unreadable:
    """A recording that could not be read, and why.

    Attributes:
        path: file or address.
        reason: one line.
    """

    path: str
    reason: str


@contextmanager
def writing(path: str | Path, remedy: str = "choose another --out") -> Iterator[None]:
    """Turn an OSError raised while writing ``path`` into a CannotWrite that ends in ``remedy``.

    A BrokenPipeError passes: standard output was closed by its reader (`| head`), which
    `cli.command.main` handles.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        remedy = _OF_THE_MACHINE.get(error.errno or 0, remedy)
        raise CannotWrite(
            f"{path}: cannot be written ({error.strerror or error}); {remedy}"
        ) from None


_OF_THE_MACHINE = {
    errno.EMFILE: "give this process more of them (ulimit -n)",
    errno.ENFILE: "this machine has none left",
    errno.ENOMEM: "give it more, or smaller batches",
    errno.EAGAIN: "this machine starts no more threads or processes (ulimit -u)",
    errno.ENOSPC: "make room, here or in the temporary folder (TMPDIR), and run it again",
    errno.EDQUOT: "make room, and run it again",
    errno.EFBIG: "files may not be as large here (ulimit -f)",
    errno.EROFS: "choose another --out",
    errno.EIO: "the disk or its network has failed",
}


_NO_ROOM = ("can't allocate memory", "could not create a primitive")
"""What PyTorch's allocator and oneDNN say where memory is too small."""

_NO_ROOM_FOR_LIBRARY = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")
"""What the dynamic linker says of a shared object that memory is too small for."""


def what_ran_out(error: BaseException) -> str | None:
    """Return one line for an error that a small or full machine causes wherever it likes.

    Returns:
        What ran out and what to do; None for any other error.
    """
    if isinstance(error, MachineError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory; {_OF_THE_MACHINE[errno.ENOMEM]}"
    if isinstance(error, OSError):
        remedy = _OF_THE_MACHINE.get(error.errno or 0)
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return f"{where}{error.strerror}; {remedy}" if remedy else None
    if isinstance(error, ImportError):
        is_full = any(sign in str(error) for sign in _NO_ROOM_FOR_LIBRARY)
        return f"out of memory; {_OF_THE_MACHINE[errno.ENOMEM]}" if is_full else None
    if isinstance(error, RuntimeError):
        text = str(error)
        if "can't start new thread" in text:
            return f"{text}; {_OF_THE_MACHINE[errno.EAGAIN]}"
        if "not enough memory" in text.lower() or any(sign in text for sign in _NO_ROOM):
            return f"out of memory; {_OF_THE_MACHINE[errno.ENOMEM]}"
        if "out of memory" in text:  # torch.OutOfMemoryError, of a GPU
            return f"out of memory of the GPU; {_OF_THE_MACHINE[errno.ENOMEM]}"
    return None


def refuse_without_descriptors(error: BaseException) -> None:
    """Raise MachineError if an OSError says that no file at all can be opened at the moment."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise MachineError(what_ran_out(error)) from error
