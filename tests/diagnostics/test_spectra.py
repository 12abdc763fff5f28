"""Rank and centre of embeddings against closed forms (methods/README.md 9)."""

import math

import pytest
import torch

from speechssl.diagnostics.centre_norm import centre_norm
from speechssl.diagnostics.effective_rank import effective_rank
from speechssl.diagnostics.rankme import rankme


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(dim):
    return torch.linalg.qr(normal(dim, dim, seed=9)).Q


def test_rankme_of_the_identity_and_of_ones():
    assert rankme(torch.eye(3)) == pytest.approx(3.0, abs=1e-4)
    assert rankme(torch.ones(20, 3)) == pytest.approx(1.000003, abs=2e-6)


def test_rankme_is_the_entropy_of_known_singular_values():
    sigma = torch.tensor([4.0, 2.0, 1.0, 1.0])
    u = torch.linalg.qr(normal(30, 4)).Q
    x = u @ torch.diag(sigma) @ rotation(4)
    p = sigma / sigma.sum()
    assert rankme(x) == pytest.approx(math.exp(-(p * p.log()).sum().item()), rel=1e-4)


@pytest.mark.parametrize("figure", [rankme, effective_rank, centre_norm])
def test_scale_rotation_and_order_change_nothing(figure):
    x = normal(50, 8) + 0.7
    want = figure(x)
    assert figure(5 * x) == pytest.approx(want, rel=1e-4)
    assert figure(x @ rotation(8)) == pytest.approx(want, rel=1e-4)
    assert figure(x[torch.randperm(50)]) == pytest.approx(want, rel=1e-4)
    assert figure(x.bfloat16()) == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize("figure", [rankme, effective_rank])
def test_a_rank_lies_between_one_and_the_dimension(figure):
    assert 7.5 < figure(normal(4000, 8)) <= 8.001
    for x in (torch.zeros(10, 4), torch.ones(10, 4), normal(10, 1) @ normal(1, 4)):
        assert figure(x) == pytest.approx(1.0, abs=0.01)


def test_only_the_centred_rank_sees_what_tells_the_utterances_apart():
    offset = 100 * torch.ones(8)
    x = normal(400, 8) + offset
    assert rankme(x) < 1.5
    assert effective_rank(x) == pytest.approx(effective_rank(x - offset), rel=1e-3)


def test_rounding_is_not_a_rank():
    for x in (torch.zeros(9, 5), torch.full((9, 5), 0.1), normal(1, 64) + 1e-7 * normal(500, 64)):
        assert effective_rank(x) == 1.0


def test_centre_norm_of_one_direction_of_opposites_and_of_an_even_spread():
    direction = normal(1, 16)
    lengths = torch.rand(32, 1) + 0.1
    assert centre_norm(lengths * direction) == pytest.approx(1.0, abs=1e-5)
    assert centre_norm(torch.cat([direction, -3 * direction])) == pytest.approx(0.0, abs=1e-6)
    assert centre_norm(normal(4096, 64)) == pytest.approx(1 / math.sqrt(4096), rel=0.3)
