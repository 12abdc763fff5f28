"""Ends a writer at each of its moments, as `kill -9` does: nothing is cleaned up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator


def killed_at_every_rename(write: Callable[[], object]) -> Iterator[int]:
    """Run `write` in child processes that die before their first, second, ... change of a name.

    Yields the number of changes that were made, once after each death; ends when `write` completes.
    A change is a rename or a removal.
    """
    for survived in range(100):
        if _runs_to_its_end(write, survived):
            return
        yield survived
    raise AssertionError("it renames without end")


def _runs_to_its_end(write: Callable[[], object], survived: int) -> bool:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 9), "the writer failed"
        return code == 0
    left = survived

    def dies(change: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: object, **options: object) -> None:
            nonlocal left
            if left == 0:
                os._exit(9)
            left -= 1
            change(*arguments, **options)

        return counted

    try:
        os.replace = dies(os.replace)
        os.rename = dies(os.rename)
        os.unlink = dies(os.unlink)
        write()
        os._exit(0)
    finally:
        os._exit(1)
