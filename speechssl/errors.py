"""Errors: the exception that a user sees, and the record of a file that could not be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class UserError(Exception):
    """A mistake that a user can cause and mend.

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
    """Turn an OSError raised while writing ``path`` into a UserError."""
    try:
        yield
    except BrokenPipeError:  # stdout was closed by its reader (`| head`): handled in cli.command
        raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --out"
        ) from None
