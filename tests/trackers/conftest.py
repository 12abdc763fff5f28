"""Trackers of tests ask no host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Refuse every connection to another machine; what was tried fails the test at its end."""
    asked: list[Any] = []
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            asked.append(address)
            raise OSError("no network in tests")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):  # for programs that the trackers start
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    yield asked
    assert asked == []
