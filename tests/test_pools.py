"""Threads start where there is memory for them, and where there is none that is said."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from speechssl.pools import ThreadPool, map_ahead, need_room_for_thread, start_thread


def test_pool_calls_in_order_on_threads_of_its_own() -> None:
    with ThreadPool(3) as pool:
        assert list(pool.map(lambda number: number**2, range(20))) == [n**2 for n in range(20)]
        assert pool.submit(threading.get_ident).result() != threading.get_ident()


def test_threads_are_a_bounded_number_of_items_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in count(1):
            taken.append(number)
            yield number

    squares = map_ahead(lambda number: number**2, items(), 3)
    assert [next(squares) for _ in range(5)] == [1, 4, 9, 16, 25]
    assert len(taken) < 100
    squares.close()
    assert list(map_ahead(str, range(200), 2)) == [str(number) for number in range(200)]


def test_thread_runs_with_its_arguments() -> None:
    heard: list[int] = []
    start_thread(heard.append, 7, name="hears").join(10)
    assert heard == [7]


def test_there_is_room_here() -> None:
    need_room_for_thread()


NO_ROOM = """
import os, resource
from speechssl.pools import ThreadPool, start_thread

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 10 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for start in (lambda: start_thread(print, name="x"), lambda: ThreadPool(2).submit(print)):
    try:
        start()
    except MemoryError as error:
        print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS")
def test_without_room_no_thread_is_started() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NO_ROOM], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.splitlines() == ["no memory for one more thread"] * 2, ended.stderr
