"""The server of a federation over gRPC, and Flower's form of it: what it asks, and what it takes."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from speechssl.errors import UserError
from speechssl.federated.clients import client_names
from speechssl.federated.flower import TENSORS, Network, import_flower, longest_message
from speechssl.federated.messages import Answer, Task
from speechssl.federated.server import MOST_FAILED_TASKS, Server
from speechssl.federated.settings import FederatedSettings
from speechssl.text import plural
from speechssl.train.settings import TrainingConfig

SECONDS_TO_COME_BACK = 600
"""How long a server waits for enough clients before a round that has too few."""


def serve(
    config: TrainingConfig,
    settings: FederatedSettings,
    out: Path,
    network: Network,
    clients: int | None = None,
    *,
    resume: bool = False,
) -> None:
    """Be the server of a run until it is finished.

    Args:
        config: of training.
        settings: of the federation.
        out: folder of the run.
        network: where clients find it.
        clients: to wait for before the first round; None: those of the configuration.
        resume: continue the run in `out`.

    Raises:
        UserError: Flower is not there, the address cannot be had, or too few clients answer.
    """
    network.check()
    flwr = import_flower()
    count = clients or len(client_names(config, settings))
    server = Server(config, settings, out, resume=resume)
    certificates = network.server_certificates()
    say(
        f"serve at {network.address}; the first round begins when {plural(count, 'client')} of"
        " `speechssl federate CONFIG --join HOST:PORT` are there"
    )
    try:
        flwr.server.start_server(
            server_address=network.address,
            config=server_config(flwr, server),
            strategy=strategy(flwr, server, count),
            client_manager=counting_manager(flwr, count),
            grpc_max_message_length=longest_message(server, settings),
            certificates=certificates,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"federate: cannot serve at {network.address} ({reason})") from error
    finish(server)


def say(line: str) -> None:
    """Print a line on standard error."""
    print(f"[federate] {line}", file=sys.stderr, flush=True)


def counting_manager(flwr: Any, wanted: int) -> Any:
    """Return Flower's list of the clients that are there, which says who comes and goes.

    A client tells its name with its first answer: until then it is counted only.

    Args:
        flwr: the package.
        wanted: clients that the first round waits for.
    """

    class Counting(flwr.server.SimpleClientManager):  # type: ignore[misc]
        """Says how many clients there are whenever that changes."""

        def register(self, client: Any) -> bool:
            is_new: bool = super().register(client)
            if is_new:
                say(f"a client joined: {len(self)} of {wanted}")
            return is_new

        def unregister(self, client: Any) -> None:
            before = len(self)
            super().unregister(client)
            if len(self) < before:
                say(f"a client left: {len(self)} of {wanted}")

    return Counting()


def server_config(flwr: Any, server: Server) -> Any:
    """Return Flower's configuration: enough rounds for what is left, and their time.

    Each task may fail as often as `Server.next_task` allows; rounds that are left over ask nothing.
    """
    minutes = server.settings.round_minutes
    return flwr.server.ServerConfig(
        num_rounds=server.tasks_left() * MOST_FAILED_TASKS,
        round_timeout=None if minutes is None else 60.0 * minutes,
    )


def finish(server: Server) -> None:
    """Write the model; raise UserError if rounds are missing."""
    if server.next_task() is not None:
        raise UserError(
            f"federate: {server.rounds_done} of {server.settings.rounds} rounds are done; what was"
            f" wrong is in {server.folder.log}; continue with --resume"
        )
    server.finish()


def strategy(flwr: Any, server: Server, clients: int) -> Any:
    """Return Flower's form of a server: what it asks, and what it takes.

    Args:
        flwr: the package.
        server: that decides.
        clients: to wait for before the first task.
    """
    common = flwr.common

    class Asking(flwr.server.strategy.Strategy):  # type: ignore[misc]
        """Asks every client that is there, and gives the answers to `server`."""

        def __init__(self) -> None:
            self.task: Task | None = None
            self.wanted = clients

        def initialize_parameters(self, client_manager: Any) -> Any:
            return common.Parameters([], TENSORS)

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            self.task = None
            with contextlib.suppress(UserError):  # `finish` raises it once Flower has stopped
                self.task = server.next_task()
            if self.task is None:
                return []
            seconds = SECONDS_TO_COME_BACK if server.tasks_done else 86400
            if client_manager.num_available() < self.wanted and server.tasks_done:
                say(f"wait for {plural(self.wanted, 'client')} for at most {seconds} s")
            client_manager.wait_for(self.wanted, seconds)
            self.wanted = server.settings.min_clients
            there = client_manager.all().values()
            if not there:  # Flower would not ask for the answers to nothing
                server.take(self.task, [])
            instruction = _instruction(common, self.task)
            return [(proxy, instruction) for proxy in there]

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            assert self.task is not None
            answers = [_answer(result) for _, result in results]
            reasons = [
                (f"unknown {number}", _reason(failure))
                for number, failure in enumerate(failures, 1)
            ]
            server.take(self.task, answers, reasons)
            return None, {}

        def configure_evaluate(
            self, server_round: int, parameters: Any, client_manager: Any
        ) -> Any:
            return []

        def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
            return None, {}

        def evaluate(self, server_round: int, parameters: Any) -> Any:
            return None

    return Asking()


def _instruction(common: Any, task: Task) -> Any:
    """Return a task as Flower sends it."""
    config = {
        "number": task.number,
        "kind": task.kind,
        "round": task.round,
        "centroids": task.centroids,
    }
    return common.FitIns(common.Parameters([task.state], TENSORS), config)


def _answer(result: Any) -> Answer:
    """Return what a client has sent; nothing of it has been checked but its form."""
    metrics = dict(result.metrics)
    name = metrics.pop("client", "")
    number = metrics.pop("number", 0)
    tensors = result.parameters.tensors
    return Answer(
        client=name if isinstance(name, str) else "",
        number=number if isinstance(number, int) else 0,
        utterances=result.num_examples,
        payload=tensors[0] if len(tensors) == 1 else b"",
        figures=metrics,
    )


def _reason(failure: Any) -> str:
    """Return one line for what Flower caught."""
    text = failure if isinstance(failure, BaseException) else failure[1].status.message
    return " ".join(str(text).split())[:300] or type(text).__name__
