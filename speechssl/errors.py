"""The one exception a user should ever see."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake that a user can cause and mend.

    The message is one line: what is wrong, where, and what to do. The command line prints it and
    exits with code 2; from Python it is an ordinary exception.
    """


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Where ``--out`` is written: what the disk refuses becomes a UserError that names ``path``."""
    try:
        yield
    except (
        BrokenPipeError
    ):  # whoever read standard output has left: the command line knows what to do
        raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --out"
        ) from None
