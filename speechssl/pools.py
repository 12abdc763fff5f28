"""Threads that are started only where there is memory for them.

`threading.Thread.start` waits until the new thread runs. If that thread finds no memory for its
first call, Python 3.11 lets it try again for ever, and it keeps the interpreter's lock: the process
hangs and hears no signal but SIGKILL. So it is asked beforehand whether there is room.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_ROOM = 16 * 2**20
"""Bytes that a thread may want at once: its stack of 8 MB, Python's frames, the allocator's pages."""


class ThreadPool(ThreadPoolExecutor):
    """The standard library's pool, which raises MemoryError in place of a thread that would hang."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Give the pool a call to make.

        Raises:
            MemoryError: there is no room for the thread that it needs.
        """
        if len(self._threads) < self._max_workers:
            need_room_for_thread()
        return super().submit(fn, *args, **kwargs)


_AHEAD = 64  # items


def map_ahead(
    work: Callable[[S], T], items: Iterable[S], threads: int, ahead: int = _AHEAD
) -> Generator[T, None, None]:
    """Yield `work` of each item, in order; threads are at most `ahead` items ahead.

    `ThreadPool.map` takes all items at once: 2 KB each, of ten million 20 GB.
    """
    waiting: deque[Future[T]] = deque()
    pool = ThreadPool(threads)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # else Ctrl-C waits for all that is ahead


def start_thread(work: Callable[..., object], *arguments: Any, name: str) -> threading.Thread:
    """Start a thread that ends with the process.

    Args:
        work: what it calls.
        arguments: of the call.
        name: of the thread.

    Raises:
        MemoryError: there is no room for it.
    """
    need_room_for_thread()
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


def need_room_for_thread() -> None:
    """Look whether this process may take as much memory as one more thread wants.

    Raises:
        MemoryError: it may not.
    """
    size = max(_ROOM, 2 * threading.stack_size())
    try:
        mmap.mmap(-1, size).close()
    except OSError as error:
        raise MemoryError("no memory for one more thread") from error
