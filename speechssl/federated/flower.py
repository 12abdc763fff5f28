"""Flower as the messenger: its server and clients over gRPC, and its simulation.

Flower carries tasks and answers; what they mean is `server.py` and `client.py`. Its interfaces
`Strategy` and `Client` are used with `start_server` and `start_client`, not its newer SuperLink and
SuperNodes, which send code to clients: here a server cannot decide what a client runs. Telemetry is
switched off before Flower is imported.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.errors import UserError
from speechssl.federated import wire
from speechssl.federated.client import Client
from speechssl.federated.clients import client_names, holdings
from speechssl.federated.local import make_client
from speechssl.federated.messages import LONGEST_NAME, Answer, Task
from speechssl.federated.server import MOST_FAILED_TASKS, Server
from speechssl.federated.settings import FederatedSettings
from speechssl.train.settings import TrainingConfig

TENSORS = "safetensors"
"""What Flower's messages hold, for its field `tensor_type`."""

SECONDS_TO_COME_BACK = 600
"""How long a server waits for enough clients before a round that has too few."""

SECONDS_BETWEEN_TRIES = 15.0
"""How often, in the end, a client looks for a server that is away."""

MESSAGE_SLACK = 1 << 20
"""Bytes of a message beside weights and centroids."""


@dataclass(frozen=True)
class Network:
    """Where a server is, and how the way to it is kept private.

    Attributes:
        address: HOST:PORT.
        ca: certificate of the authority that both sides trust (PEM); None: no TLS.
        certificate, key: of the server (PEM).
        insecure: allow other machines without TLS.
    """

    address: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False

    def check(self) -> None:
        """Raise UserError for another machine without TLS, unless the user allows it."""
        host, colon, port = self.address.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise UserError(f"federate: {self.address!r} is no HOST:PORT, such as 127.0.0.1:8080")
        is_here = host in ("localhost", "[::1]") or host.startswith("127.")
        if self.ca is None and not is_here and not self.insecure:
            raise UserError(
                f"federate: {self.address} without TLS: anybody on the way could read and change the"
                " weights; give --tls-ca (the server: --tls-cert and --tls-key, too), or --insecure"
            )

    def server_certificates(self) -> tuple[bytes, bytes, bytes] | None:
        """Return authority, certificate and key, or None without TLS."""
        if self.ca is None:
            return None
        if self.certificate is None or self.key is None:
            raise UserError("federate: --serve with TLS needs --tls-cert and --tls-key, too")
        return _bytes_of(self.ca), _bytes_of(self.certificate), _bytes_of(self.key)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def import_flower() -> Any:
    """Import Flower with its telemetry off and its own log quiet.

    Raises:
        UserError: it is not installed.
    """
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import flwr
        import flwr.client
        import flwr.common
        import flwr.server
    except ImportError as error:
        raise UserError(
            f"federate: this needs Flower (pip install 'speechssl[federated]'): {error}"
        ) from None
    logging.getLogger("flwr").setLevel(logging.ERROR)  # also hides that these calls are deprecated
    return flwr


def longest_message(server_or_client: Server | Client, settings: FederatedSettings) -> int:
    """Return the bytes of the largest message: weights, and centroids of at most 4096 numbers."""
    weights = sum(v.numel() * v.element_size() for v in server_or_client.expected.values())
    names = 1024 * len(server_or_client.expected)
    return weights + names + 4 * 4096 * settings.clusters + MESSAGE_SLACK


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
    try:
        flwr.server.start_server(
            server_address=network.address,
            config=_server_config(flwr, server),
            strategy=strategy(flwr, server, count),
            grpc_max_message_length=longest_message(server, settings),
            certificates=network.server_certificates(),
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"federate: cannot serve at {network.address} ({reason})") from error
    _finish(server)


def _server_config(flwr: Any, server: Server) -> Any:
    minutes = server.settings.round_minutes
    return flwr.server.ServerConfig(
        num_rounds=server.tasks_left() + MOST_FAILED_TASKS,
        round_timeout=None if minutes is None else 60.0 * minutes,
    )


def _finish(server: Server) -> None:
    """Write the model; raise UserError if rounds are missing."""
    if server.next_task() is not None:
        raise UserError(
            f"federate: {server.rounds_done} of {server.settings.rounds} rounds are done; what was"
            f" wrong is in {server.folder.log}; continue with --resume"
        )
    server.finish()


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
    if len(name) > LONGEST_NAME:
        raise UserError(f"federate: the client's name has more than {LONGEST_NAME} letters")
    client = Client(holdings(config, settings, name), settings, out, device)
    _until_served(
        lambda: flwr.client.start_client(
            server_address=network.address,
            client=flower_client(flwr, client),
            grpc_max_message_length=longest_message(client, settings),
            root_certificates=None if network.ca is None else _bytes_of(network.ca),
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


def simulate(
    config: TrainingConfig,
    settings: FederatedSettings,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
) -> None:
    """Run all clients on this machine by Flower's simulation, several at once.

    Args:
        config: of training.
        settings: of the federation.
        out: folder of the run.
        resume: continue the run in it.
        device: of every client.

    Raises:
        UserError: Flower or Ray is not there, or too few clients answer.
    """
    flwr = import_flower()
    try:
        import ray  # noqa: F401
        from flwr.simulation import run_simulation
    except ImportError as error:
        raise UserError(
            f"federate: --engine flower needs Ray (pip install 'speechssl[ray]'): {error}"
        ) from None
    server = Server(config, settings, out, resume=resume)
    names = client_names(config, settings)
    flower_strategy = strategy(flwr, server, len(names))
    server_config = _server_config(flwr, server)

    def server_fn(context: Any) -> Any:
        return flwr.server.ServerAppComponents(strategy=flower_strategy, config=server_config)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_simulation(
            server_app=flwr.server.ServerApp(server_fn=server_fn),
            client_app=flwr.client.ClientApp(
                client_fn=_clients(config, settings, out, names, device)
            ),
            num_supernodes=len(names),
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    _finish(server)


def _clients(
    config: TrainingConfig,
    settings: FederatedSettings,
    out: Path,
    names: list[str],
    device: str,
) -> Callable[[Any], Any]:
    """Return what makes the client of a node of the simulation, in whatever process it runs."""

    def client_fn(context: Any) -> Any:
        flwr = import_flower()
        name = names[int(context.node_config["partition-id"])]
        return flower_client(flwr, make_client(config, settings, name, out, device))

    return client_fn


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
            with contextlib.suppress(UserError):  # `_finish` raises it once Flower has stopped
                self.task = server.next_task()
            if self.task is None:
                return []
            seconds = SECONDS_TO_COME_BACK if server.tasks_done else 86400
            client_manager.wait_for(self.wanted, seconds)
            self.wanted = server.settings.min_clients
            instruction = _instruction(common, self.task)
            return [(proxy, instruction) for proxy in client_manager.all().values()]

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            assert self.task is not None
            answers = [_answer(result) for _, result in results]
            reasons = [("unknown", _reason(failure)) for failure in failures]
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
