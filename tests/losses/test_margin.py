"""Margins by hand, by ordinary softmax, and gates by a mixture whose crossing is known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm

from speechssl.losses import margin
from speechssl.losses.margin import aam_logits, centre_cosines, dynamic_gate


def test_the_margin_turns_the_targets_angle():
    angle = 0.7
    cosines = torch.tensor([[math.cos(angle), 0.1, -0.2]])
    logits = aam_logits(cosines, torch.tensor([0]), scale=30.0, margin=0.3)
    torch.testing.assert_close(logits, torch.tensor([[30 * math.cos(angle + 0.3), 3.0, -6.0]]))


def test_beyond_pi_minus_m_the_target_goes_on_falling():
    angles = torch.linspace(2.0, math.pi, 50)
    logits = aam_logits(
        angles.cos()[:, None].expand(-1, 2), torch.zeros(50, dtype=torch.int64), 1.0, 0.5
    )
    assert (logits[:, 0].diff() < 0).all()
    torch.testing.assert_close(logits[-1, 0], torch.tensor(-1.0 - 0.5 * math.sin(0.5)))


def test_the_nearest_wrong_classes_are_brought_nearer():
    angles = torch.tensor([[0.5, 0.9, 1.3, 2.0]])
    logits = aam_logits(angles.cos(), torch.tensor([1]), 1.0, 0.0, topk=2, penalty=0.1)
    torch.testing.assert_close(logits, torch.tensor([[0.4, 0.9, 1.2, 2.0]]).cos())


def test_without_margin_it_is_softmax_over_cosines():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=g)
    w = torch.randn(4, 1, 3, generator=g)
    want = F.cosine_similarity(x[:, None], w[:, 0][None], dim=-1)
    torch.testing.assert_close(centre_cosines(x, w), want)
    torch.testing.assert_close(aam_logits(want, torch.tensor([0, 1, 2, 3, 0]), 7.0, 0.0), 7 * want)


def test_the_nearest_sub_centre_counts():
    centres = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -2.0]]])
    got = centre_cosines(torch.tensor([[0.0, 3.0], [-1.0, -1.0]]), centres)
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.0], [-(0.5**0.5), 0.5**0.5]]))


def test_the_dynamic_gate_lies_where_two_gaussians_meet():
    # log losses from N(-3, .5) and N(1, .5), equally many: the densities meet half-way, at -1
    g = torch.Generator().manual_seed(0)
    logs = torch.cat(
        [-3 + 0.5 * torch.randn(4000, generator=g), 1 + 0.5 * torch.randn(4000, generator=g)]
    )
    assert math.log(dynamic_gate(logs.exp())) == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("zeros", [0.3, 0.6])
def test_samples_without_any_loss_do_not_take_the_gate_for_themselves(zeros):
    g = torch.Generator().manual_seed(0)
    logs = torch.cat(
        [-2 + 0.5 * torch.randn(3000, generator=g), 2 + 0.5 * torch.randn(3000, generator=g)]
    )
    losses = torch.cat([logs.exp(), torch.zeros(int(6000 * zeros / (1 - zeros)))])
    assert math.log(dynamic_gate(losses)) == pytest.approx(0.0, abs=0.15)


def test_losses_that_are_all_alike_have_no_gate():
    assert dynamic_gate(torch.full((100,), 0.3)) == math.inf
    assert dynamic_gate(torch.tensor([0.1, 2.0])) == math.inf


def overlapping(count, wrong):
    """Log-normal losses of right and wrong labels, and where their densities cross between means."""
    rng = np.random.default_rng(0)
    right = rng.lognormal(-1.5, 1.3, int(count * (1 - wrong)))
    bad = rng.lognormal(2.2, 0.35, int(count * wrong))
    grid = np.linspace(-1.5, 2.2, 10_000)
    ratio = (1 - wrong) * norm.pdf(grid, -1.5, 1.3) / (wrong * norm.pdf(grid, 2.2, 0.35))
    crossing = float(np.exp(grid[(ratio >= 1).sum() - 1]))
    return torch.tensor(right), torch.tensor(bad), crossing


@pytest.mark.parametrize("wrong", [0.1, 0.3])
def test_the_mixture_converges_so_few_right_labels_are_stopped(wrong):
    right, bad, crossing = overlapping(20_000, wrong)
    gate = dynamic_gate(torch.cat([right, bad]))
    assert gate == pytest.approx(crossing, rel=0.15)
    assert (right > gate).double().mean() < 0.03 and (bad <= gate).double().mean() < 0.03


@pytest.mark.parametrize(
    ("wrong", "gate", "lost", "kept"),
    [(10_000, 4.288, 0.0119, 0.0148), (30_000, 3.663, 0.0157, 0.0050)],
)
def test_the_reproduction_of_a_mixture_that_was_stopped_early(wrong, gate, lost, kept):
    """The figures of methods/README.md 15; after 4 iterations of EM 13.3 % were lost of the first."""
    rng = np.random.default_rng(0)
    right = torch.tensor(rng.lognormal(-1.5, 1.3, 100_000 - wrong))
    bad = torch.tensor(rng.lognormal(2.2, 0.35, wrong))
    found = dynamic_gate(torch.cat([right, bad]))
    assert found == pytest.approx(gate, abs=0.01)
    assert float((right > found).double().mean()) == pytest.approx(lost, abs=2e-4)
    assert float((bad <= found).double().mean()) == pytest.approx(kept, abs=2e-4)


def test_a_sample_of_many_losses_gives_the_same_gate(monkeypatch):
    right, bad, crossing = overlapping(20_000, 0.1)
    losses = torch.cat([right, bad])
    monkeypatch.setattr(margin, "MOST_LOSSES", 5000)
    assert dynamic_gate(losses) == pytest.approx(crossing, rel=0.2)
    assert dynamic_gate(losses) == dynamic_gate(losses)
