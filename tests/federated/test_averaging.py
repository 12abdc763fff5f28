"""The server's mean and the distance of a round: hand computations and the known answers of 14.2."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from speechssl.federated.averaging import divergence, mixture, shares, weighted_mean


def states(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "w": torch.randn(3, 2, generator=generator),
            "steps": torch.tensor(number),
            "seen": torch.tensor(number == 1),
        }
        for number in range(count)
    ]


def test_shares_are_the_clients_parts_of_all_utterances_and_sum_to_one() -> None:
    assert shares([1, 3]) == [0.25, 0.75]
    assert sum(shares([7, 11, 13, 1_000_003])) == pytest.approx(1.0, abs=1e-15)


def test_the_mean_is_weighted_and_counters_are_the_largest() -> None:
    a, b = {"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([5.0, 1.0])}
    assert weighted_mean([a, b], [0.25, 0.75])["w"].tolist() == [4.0, 2.0]
    mean = weighted_mean(states(3), shares([1, 1, 1]))
    assert mean["steps"] == 2 and bool(mean["seen"])
    assert mean["w"].dtype == torch.float32


def test_one_client_has_its_own_bits_and_two_equal_ones_have_those_of_each() -> None:
    (one,) = states(1)
    assert torch.equal(weighted_mean([one], shares([17]))["w"], one["w"])
    assert torch.equal(weighted_mean([one, one], shares([5, 5]))["w"], one["w"])


def test_m_0_is_the_mean_and_m_1_the_own_weights_to_the_bit() -> None:
    own, mean = states(2)
    assert torch.equal(mixture(own, mean, 0.0)["w"], mean["w"])
    assert torch.equal(mixture(own, mean, 1.0)["w"], own["w"])
    torch.testing.assert_close(mixture(own, mean, 0.25)["w"], 0.25 * own["w"] + 0.75 * mean["w"])


def test_the_distance_is_the_mean_over_convolutions_of_the_norm_of_the_change() -> None:
    before = {"c1": torch.zeros(2, 2, 1), "c2": torch.zeros(1, 3, 1), "linear": torch.zeros(9, 9)}
    after = {
        "c1": torch.full((2, 2, 1), 1.5),  # norm 3
        "c2": torch.tensor([[[3.0], [4.0], [0.0]]]),  # norm 5
        "linear": torch.ones(9, 9),  # no convolution: not counted
    }
    assert divergence(before, after) == pytest.approx(4.0)
    assert divergence(before, before) == 0.0


def test_an_encoder_without_convolutions_is_measured_by_its_matrices() -> None:
    before = {"m": torch.zeros(2, 2), "bias": torch.zeros(2)}
    after = {"m": torch.full((2, 2), 0.5), "bias": torch.ones(2)}
    assert divergence(before, after) == pytest.approx(1.0)


def test_one_full_batch_step_of_a_mean_loss_averages_to_the_centralised_step() -> None:
    """methods/README.md 14.2: a linear model, exact but for rounding; the order does not matter."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(12, generator=generator, dtype=torch.float64)
    start = torch.randn(5, generator=generator, dtype=torch.float64)

    def step(rows: slice) -> torch.Tensor:
        residual = x[rows] @ start - y[rows]
        gradient = 2 * x[rows].T @ residual / len(residual)
        return start - 0.1 * gradient

    parts = [slice(0, 3), slice(3, 5), slice(5, 12)]
    counts = [3, 2, 7]
    clients = [{"w": step(part)} for part in parts]
    for order in itertools.permutations(range(3)):
        mean = weighted_mean([clients[k] for k in order], shares([counts[k] for k in order]))
        torch.testing.assert_close(mean["w"], step(slice(0, 12)), atol=1e-15, rtol=0)


def test_a_loss_over_pairs_does_not_average_to_the_centralised_step() -> None:
    """NT-Xent sees other negatives in a client: not what the joined batch would give."""
    from speechssl.methods.simclr import nt_xent

    z = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(2))
    halves = (nt_xent(z[:, :4], 0.5) + nt_xent(z[:, 4:], 0.5)) / 2
    assert abs(float(nt_xent(z, 0.5)) - float(halves)) > 0.1


def test_averaged_running_variance_lacks_the_variance_of_the_means() -> None:
    """Two clients with N(-1, 1) and N(1, 1): averaged mean 0, variance 1; the pooled variance is 2."""
    generator = torch.Generator().manual_seed(3)
    states = []
    for mean in (-1.0, 1.0):
        norm = nn.BatchNorm1d(1, momentum=None)  # the cumulative mean
        norm(mean + torch.randn(200_000, 1, generator=generator))
        states.append(norm.state_dict())
    averaged = weighted_mean(states, [0.5, 0.5])
    assert float(averaged["running_mean"]) == pytest.approx(0.0, abs=0.02)
    assert float(averaged["running_var"]) == pytest.approx(1.0, abs=0.02)
