"""All clients on this machine, several at once, by Flower's simulation (Ray)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speechssl.errors import UserError
from speechssl.federated.clients import client_names
from speechssl.federated.flower import import_flower
from speechssl.federated.flower_client import flower_client
from speechssl.federated.flower_server import finish, server_config, strategy
from speechssl.federated.local import make_client
from speechssl.federated.server import Server
from speechssl.federated.settings import FederatedSettings
from speechssl.train.settings import TrainingConfig


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
    configured = server_config(flwr, server)

    def server_fn(context: Any) -> Any:
        return flwr.server.ServerAppComponents(strategy=flower_strategy, config=configured)

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
    finish(server)


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
