"""What a client's round starts from: contracts of every strategy, and the rules of FedU and FedEMA."""

from __future__ import annotations

import pytest
import torch
from builders import readme_part

from speechssl import parts
from speechssl.errors import UserError
from speechssl.federated.strategy import Own, Strategy, is_of_predictor

NAMES = [*parts.names("federated"), readme_part("federated")]
RECEIVED = {"net.w": torch.tensor([0.0, 2.0]), "predictor.0.weight": torch.tensor([4.0])}
OWN = {"net.w": torch.tensor([8.0, 6.0]), "predictor.0.weight": torch.tensor([-4.0])}


def begin(section: object, divergence: float, first: float = 1.0) -> dict[str, torch.Tensor]:
    strategy = parts.build("federated", section)
    return strategy.begin(RECEIVED, Own(OWN, divergence, first))


@pytest.mark.parametrize("name", NAMES)
def test_a_first_round_starts_from_the_mean_and_nothing_that_is_given_changes(name: str) -> None:
    strategy = parts.build("federated", name)
    assert isinstance(strategy, Strategy)
    kept = {key: value.clone() for key, value in RECEIVED.items()}
    first = strategy.begin(RECEIVED, None)
    later = strategy.begin(RECEIVED, Own(OWN, 0.3, 0.5))
    assert set(first) == set(later) == set(RECEIVED)
    assert all(torch.equal(first[key], kept[key]) for key in kept)
    assert all(torch.equal(RECEIVED[key], kept[key]) for key in kept)
    assert all(torch.isfinite(value).all() for value in later.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_has_the_mean_already_starts_from_it(name: str) -> None:
    start = parts.build("federated", name).begin(RECEIVED, Own(RECEIVED, 0.3, 0.5))
    for key, value in RECEIVED.items():
        torch.testing.assert_close(start[key], value)


def test_fedavg_takes_the_mean() -> None:
    start = begin("fedavg", 100.0)
    assert all(torch.equal(start[key], RECEIVED[key]) for key in RECEIVED)


@pytest.mark.parametrize(("divergence", "predictor"), [(0.39, 4.0), (0.4, -4.0), (7.0, -4.0)])
def test_fedu_keeps_its_predictor_from_the_threshold_on(
    divergence: float, predictor: float
) -> None:
    start = begin({"name": "fedu", "threshold": 0.4}, divergence)
    assert start["predictor.0.weight"].tolist() == [predictor]
    assert torch.equal(start["net.w"], RECEIVED["net.w"])


@pytest.mark.parametrize(
    ("scale", "divergence", "expected"),
    [
        (0.0, 5.0, [0.0, 2.0]),
        (1.0, 0.25, [2.0, 3.0]),
        (1.0, 1.0, [8.0, 6.0]),
        (9.0, 3.0, [8.0, 6.0]),
    ],
)
def test_fedema_mixes_by_the_distance_up_to_its_own_weights(
    scale: float, divergence: float, expected: list[float]
) -> None:
    start = begin({"name": "fedema", "scale": scale}, divergence)
    assert start["net.w"].tolist() == expected


def test_fedema_sets_its_scale_so_that_the_first_mixture_has_the_target() -> None:
    """lambda = tau / d of the first round, so m = tau there, and half of it when d has halved."""
    section = {"name": "fedema", "target": 0.5}
    assert begin(section, 0.2, first=0.2)["net.w"].tolist() == [4.0, 4.0]
    assert begin(section, 0.1, first=0.2)["net.w"].tolist() == [2.0, 3.0]


def test_a_predictor_is_known_by_its_name() -> None:
    assert is_of_predictor("predictor.0.weight") and is_of_predictor("base.predictor.weight")
    assert not is_of_predictor("net.projector.0.weight")


@pytest.mark.parametrize(
    "section",
    [
        {"name": "fedu", "threshold": 0},
        {"name": "fedema", "scale": -1},
        {"name": "fedema", "target": 2},
    ],
)
def test_settings_out_of_range_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"federated\.strategy\."):
        parts.build("federated", section)
