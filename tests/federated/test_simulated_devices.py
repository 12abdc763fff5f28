"""Flower's simulation: what Ray keeps for a client, on machines with any number of GPUs."""

import os

import pytest
import torch

from speechssl.errors import UserError
from speechssl.federated.flower_simulation import resources_of_a_client


@pytest.mark.parametrize(
    ("gpus", "cores", "clients", "share"),
    [
        (0, 8, 4, 0.0),
        (1, 8, 2, 0.5),
        (1, 8, 3, 0.3333),
        (4, 8, 3, 1.0),
        (2, 16, 5, 0.3333),
        (2, 2, 9, 1),
    ],
)
def test_clients_at_once_share_the_gpus_and_all_fit(
    gpus: int, cores: int, clients: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    for device in ("auto", "cuda") if gpus else ("auto",):
        found = resources_of_a_client(device, clients)
        assert found == {"num_cpus": 1, "num_gpus": share}
        if share:  # Ray puts whole clients on a GPU
            assert gpus * int(1 / share) >= min(clients, cores)
    assert resources_of_a_client("cpu", clients)["num_gpus"] == 0.0


def test_devices_that_are_not_there_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        resources_of_a_client("cuda:1", 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="no GPU here"):
        resources_of_a_client("cuda", 2)
