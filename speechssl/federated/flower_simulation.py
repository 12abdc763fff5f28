"""All clients on this machine, several at once, by Flower's simulation (Ray)."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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
        device: of every client: ``auto``, ``cpu`` or ``cuda``. The GPUs of this machine are shared
            among the clients that run at once, several on each if there are fewer.

    Raises:
        UserError: Flower or Ray is not there, a device that is not, or too few clients answer.
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
    resources = resources_of_a_client(device, len(names))
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
            backend_config={"client_resources": resources},
        )
    finish(server)


def resources_of_a_client(device: str, clients: int) -> dict[str, float]:
    """Return what Ray is to keep for a client: a core, and its share of the GPUs.

    Ray shows a client no GPU but its own, so without a share `--device cuda` finds none.

    Args:
        device: as for `simulate`.
        clients: number of them.

    Raises:
        UserError: a GPU by number, or none is there.
    """
    if device.startswith("cuda:"):
        raise UserError(
            f"federate: --device {device}: --engine flower shares all GPUs among the clients; give"
            " cuda, and choose GPUs by the variable CUDA_VISIBLE_DEVICES"
        )
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if not gpus:
        if device == "cuda":
            raise UserError("federate: --device cuda: there is no GPU here; give --device cpu")
        return {"num_cpus": 1, "num_gpus": 0.0}
    at_once = min(clients, os.cpu_count() or 1)
    on_a_gpu = math.ceil(at_once / gpus)
    return {"num_cpus": 1, "num_gpus": math.floor(10_000 / on_a_gpu) / 10_000}


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
