"""A client of a federation over gRPC, and Flower's form of it."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from speechssl.errors import UserError
from speechssl.federated import wire
from speechssl.federated.client import Client
from speechssl.federated.clients import client_names, holdings
from speechssl.federated.flower import TENSORS, Network, import_flower, longest_message, read_pem
from speechssl.federated.messages import Task
from speechssl.federated.settings import FederatedSettings
from speechssl.train.settings import TrainingConfig

SECONDS_BETWEEN_TRIES = 15.0
"""How often, in the end, a client looks for a server that is away."""


def join(
    config: TrainingConfig,
    settings: FederatedSettings,
    out: Path,
    network: Network,
    name: str | None,
    device: str = "auto",
) -> None:
    """Be a client until the server has finished; a server that goes away is waited for.

    Args:
        config: of training.
        settings: of the federation.
        out: this client's folder.
        network: where the server is.
        name: which client of the configuration; None: the only one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: Flower is not there, or there is no such client.
    """
    network.check()
    flwr = import_flower()
    known = client_names(config, settings)
    if name is None and len(known) > 1:
        raise UserError(f"federate: --client NAME is missing; one of: {', '.join(known[:20])}")
    name = name or known[0]
    client = Client(holdings(config, settings, name), settings, out, device)
    _until_served(
        lambda: flwr.client.start_client(
            server_address=network.address,
            client=flower_client(flwr, client),
            grpc_max_message_length=longest_message(client, settings),
            root_certificates=None if network.ca is None else read_pem(network.ca),
            insecure=network.ca is None,
        ),
        network.address,
    )


def _until_served(connect: Callable[[], None], address: str) -> None:
    """Connect again and again until the server says that the run is over."""
    import grpc

    pauses = itertools.chain((1.0, 2.0, 4.0, 8.0), itertools.repeat(SECONDS_BETWEEN_TRIES))
    for pause in pauses:
        try:
            with _without_word_of_closed_channels():
                connect()
            return
        except grpc.RpcError as error:
            code = error.code().name if hasattr(error, "code") else type(error).__name__
            print(
                f"no server at {address} ({code}); trying again in {pause:.0f} s", file=sys.stderr
            )
        time.sleep(pause)


@contextlib.contextmanager
def _without_word_of_closed_channels() -> Iterator[None]:
    """Keep a thread of gRPC from printing a traceback when it looks at a channel that is closed."""
    before = threading.excepthook

    def say_unless_closed(arguments: threading.ExceptHookArgs) -> None:
        error = arguments.exc_value
        if not (isinstance(error, ValueError) and "Channel closed" in str(error)):
            before(arguments)

    threading.excepthook = say_unless_closed
    try:
        yield
    finally:
        threading.excepthook = before


def flower_client(flwr: Any, client: Client) -> Any:
    """Return Flower's form of a client."""
    common = flwr.common

    class Answering(flwr.client.Client):  # type: ignore[misc]
        """Answers fit, the only thing that is asked."""

        def fit(self, ins: Any) -> Any:
            try:
                answer = client.answer(_task(ins))
            except UserError as error:
                # The message may name utterances: it stays here.
                print(f"speechssl: {client.name}: {error}", flush=True)
                status = common.Status(common.Code.FIT_NOT_IMPLEMENTED, "failed; see its own log")
                return common.FitRes(status, common.Parameters([], TENSORS), 0, {})
            return common.FitRes(
                status=common.Status(common.Code.OK, ""),
                parameters=common.Parameters([answer.payload], TENSORS),
                num_examples=answer.utterances,
                metrics={"client": answer.client, "number": answer.number, **answer.figures},
            )

    return Answering()


def _task(ins: Any) -> Task:
    """Return what the server has sent.

    Raises:
        Refused: it is no task.
    """
    config = ins.config
    kind = config.get("kind")
    number = config.get("number")
    round = config.get("round")
    rows = config.get("centroids")
    tensors = ins.parameters.tensors
    has_types = isinstance(number, int) and isinstance(round, int) and isinstance(rows, bytes)
    if kind not in ("train", "cluster") or not has_types or len(tensors) != 1:
        raise wire.Refused("what the server asks is not understood; use one version everywhere")
    return Task(number, kind, round, tensors[0], rows)
