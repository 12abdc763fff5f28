"""Errors: the exception that a user sees, and the record of a file that could not be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class UserError(Exception):
    """A mistake that a user can cause and correct.

    The message is one line: what is wrong, where, and what to do. The command line prints it and
    exits with code 2; from Python it is an ordinary exception.
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
def writing(path: str | Path) -> Iterator[None]:
    """Turn an OSError raised while writing ``path`` into a UserError.

    A BrokenPipeError passes: standard output was closed by its reader (`| head`), which
    `cli.command.main` handles.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --out"
        ) from None
