"""What Flower's server is given, by a stand-in for Flower: it is in no environment of these tests."""

from types import SimpleNamespace
from typing import Any

import pytest

from speechssl.errors import UserError
from speechssl.federated import flower_server
from speechssl.federated.messages import Task
from speechssl.federated.server import MOST_FAILED_TASKS

FLOWER = SimpleNamespace(
    common=SimpleNamespace(
        Parameters=lambda tensors, kind: (tensors, kind), FitIns=lambda *parts: parts
    ),
    server=SimpleNamespace(ServerConfig=SimpleNamespace, strategy=SimpleNamespace(Strategy=object)),
)


class Server:
    """Asks one task again and again, and gives up as the real one does."""

    settings = SimpleNamespace(min_clients=1, round_minutes=None)
    tasks_done = 1

    def __init__(self) -> None:
        self.taken: list[tuple[int, list[Any]]] = []

    def next_task(self) -> Task | None:
        if len(self.taken) >= MOST_FAILED_TASKS:
            raise UserError("too often")
        return Task(len(self.taken) + 1, "train", 1, b"weights")

    def take(self, task: Task, answers: Any, failures: Any = ()) -> None:
        self.taken.append((task.number, [*answers, *failures]))

    def tasks_left(self) -> int:
        return 30


def clients(*proxies: str) -> Any:
    found = dict(enumerate(proxies))
    return SimpleNamespace(
        wait_for=lambda count, seconds: bool(found),
        num_available=lambda: len(found),
        all=lambda: found,
    )


def test_a_round_without_any_client_counts_as_failed() -> None:
    server = Server()
    asking = flower_server.strategy(FLOWER, server, 2)
    for number in range(1, 15):
        assert asking.configure_fit(number, None, clients()) == []
    assert server.taken == [(number, []) for number in range(1, MOST_FAILED_TASKS + 1)]


def test_every_client_that_is_there_is_asked_and_every_failure_is_listed() -> None:
    server = Server()
    asking = flower_server.strategy(FLOWER, server, 2)
    asked = asking.configure_fit(1, None, clients("one", "two"))
    assert [proxy for proxy, _ in asked] == ["one", "two"]
    asking.aggregate_fit(1, [], [OSError("gone"), OSError("away")])
    assert server.taken == [(1, [("unknown 1", "gone"), ("unknown 2", "away")])]


@pytest.mark.parametrize("minutes", [None, 2.0])
def test_failures_here_and_there_do_not_use_up_the_rounds(minutes: float | None) -> None:
    server = Server()
    server.settings = SimpleNamespace(min_clients=1, round_minutes=minutes)
    configured = flower_server.server_config(FLOWER, server)
    assert configured.num_rounds >= 30 * (MOST_FAILED_TASKS - 1) + 30
    assert configured.round_timeout == (None if minutes is None else 120.0)
