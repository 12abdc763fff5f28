"""How far a long command is: a bar with rate and time left on a terminal, a plain line a minute elsewhere.

Only commands show it (`shown`, which the command line calls): from Python, the same functions say
nothing. What takes less than two seconds shows nothing either.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_is_shown: ContextVar[bool] = ContextVar("is_shown", default=False)

DELAY = 2.0
"""Seconds before a bar appears."""

SECONDS_BETWEEN_LINES = 60.0
"""Where standard error is no terminal."""


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show the progress of what runs inside."""
    token = _is_shown.set(True)
    try:
        yield
    finally:
        _is_shown.reset(token)


@contextlib.contextmanager
def progress(
    total: int, what: str, unit: str, *, show: bool | None = None
) -> Iterator[Callable[[int], None]]:
    """Show how much of a piece of work is done.

    Args:
        total: of it; it may end earlier.
        what: a word that says what is being done.
        unit: what is counted.
        show: whether it is shown on a terminal; None: inside `shown`.

    Returns:
        A function that is called with how much more is done.
    """
    visible = _is_shown.get() if show is None else show
    if not visible:
        yield lambda more: None
    elif sys.stderr.isatty() or show:
        from tqdm import tqdm

        delay = 0.0 if show else DELAY
        with tqdm(total=total, desc=what, unit=unit, delay=delay, file=sys.stderr) as bar:

            def done(more: int) -> None:
                bar.update(more)

            yield done
    else:
        yield _Lines(total, what, unit)


def counted(items: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    """Yield items, and show how many have been taken; arguments are those of `progress`."""
    with progress(total, what, unit) as done:
        for item in items:
            yield item
            done(1)


class _Lines:
    """Prints a line on standard error once a minute."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        self.total = total
        self.what = what
        self.unit = unit
        self.count = 0
        self.began = time.monotonic()
        self.said = self.began

    def __call__(self, more: int) -> None:
        self.count += more
        now = time.monotonic()
        if now - self.said < SECONDS_BETWEEN_LINES:
            return
        self.said = now
        rate = self.count / (now - self.began)
        left = max(0, self.total - self.count) / max(rate, 1e-9)
        print(
            f"{self.what}: {self.count} of {self.total} {self.unit}, {rate:.3g} {self.unit}/s,"
            f" {left / 60:.1f} min left",
            file=sys.stderr,
            flush=True,
        )
