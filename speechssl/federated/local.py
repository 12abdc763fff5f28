"""All clients in this process, one after the other: no network, and nothing to install."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import CannotWrite, UserError
from speechssl.federated.client import Client
from speechssl.federated.clients import client_names, folder_of, holdings
from speechssl.federated.messages import Answer, Task
from speechssl.federated.server import Server
from speechssl.federated.settings import FederatedSettings
from speechssl.train.settings import TrainingConfig


def make_client(
    config: TrainingConfig, settings: FederatedSettings, name: str, out: Path, device: str
) -> Client:
    """Return a client of a configuration, with its folder inside ``out``."""
    held = holdings(config, settings, name)
    return Client(held, settings, folder_of(out, name), device)


def run_here(
    config: TrainingConfig,
    settings: FederatedSettings,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
) -> Path:
    """Train all clients of a configuration in this process.

    Args:
        config: of training.
        settings: of the federation.
        out: folder of the run.
        resume: continue the run in it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The folder of the run.

    Raises:
        UserError: a mistake in configuration or data, or too few clients could be trained.
    """
    server = Server(config, settings, out, resume=resume)
    names = client_names(config, settings)
    clients = [make_client(config, settings, name, out, device) for name in names]
    while (task := server.next_task()) is not None:
        answers, failures = _ask(clients, task)
        server.take(task, answers, failures)
    server.finish()
    return out


def _ask(clients: Sequence[Client], task: Task) -> tuple[list[Answer], list[tuple[str, str]]]:
    """Return the answers of all clients, and (client, reason) of those that gave none.

    Raises:
        CannotWrite: the disk refused, which is that of all clients and the server.
    """
    answers = []
    failures = []
    for client in clients:
        try:
            answers.append(client.answer(task))
        except CannotWrite:
            raise
        except UserError as error:
            failures.append((client.name, str(error)))
    return answers, failures
