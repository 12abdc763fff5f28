"""Figures of embeddings by hand (methods/README.md 4, 9, 10)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechssl import parts
from speechssl.diagnostics.acr import acr, arc
from speechssl.diagnostics.alignment import alignment
from speechssl.diagnostics.centre_norm import centre_norm
from speechssl.diagnostics.deviation import deviation
from speechssl.diagnostics.directions import directions
from speechssl.diagnostics.ema_gap import ema_gap
from speechssl.diagnostics.garc import generalised_acr
from speechssl.diagnostics.offdiagonal_correlation import offdiagonal_correlation
from speechssl.diagnostics.participation_ratio import participation_ratio
from speechssl.diagnostics.predictor_spectrum import predictor_spectrum
from speechssl.diagnostics.residual_energy import residual_energy
from speechssl.diagnostics.spectrum_auc import cumulative, spectrum_auc
from speechssl.diagnostics.uniformity import uniformity
from speechssl.diagnostics.uniformity_indicator import uniformity_indicator
from speechssl.diagnostics.wasserstein_uniformity import wasserstein_uniformity


def spread(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_uniformity_by_hand():
    assert float(uniformity(torch.tensor([[1.0, 0], [-1, 0]]))) == pytest.approx(-8, abs=1e-5)
    assert float(uniformity(torch.ones(5, 3))) == pytest.approx(0, abs=1e-5)
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert float(uniformity(square)) == pytest.approx(
        math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6), abs=1e-5
    )
    assert float(uniformity(square)) == pytest.approx(-4.39635, abs=1e-4)


def test_alignment_is_two_minus_two_cosines():
    a, b = spread(9, 4), spread(9, 4, seed=1)
    want = (2 - 2 * F.cosine_similarity(a, b, dim=-1)).mean()
    torch.testing.assert_close(alignment(a, b), want)
    assert float(alignment(a, 3 * a)) == pytest.approx(0, abs=1e-6)


def test_spectrum_auc_of_flat_and_single():
    flat = torch.cat([torch.eye(4), -torch.eye(4)])
    assert spectrum_auc(flat) == pytest.approx(0.625, abs=1e-5)
    assert cumulative(flat).tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=1e-5)
    assert spectrum_auc(spread(9, 1) * torch.ones(1, 3)) == pytest.approx(1, abs=1e-4)


def test_participation_ratio_by_hand():
    assert participation_ratio(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(4)
    x = torch.cat([torch.diag(torch.tensor([2.0, 1.0])), -torch.diag(torch.tensor([2.0, 1.0]))])
    assert participation_ratio(x) == pytest.approx((4 + 1) ** 2 / (16 + 1))
    tall = spread(40, 8)
    lam = torch.linalg.eigvalsh(torch.cov(tall.T)).double()
    assert participation_ratio(tall) == pytest.approx(
        float(lam.sum() ** 2 / lam.square().sum()), rel=1e-4
    )
    assert participation_ratio(tall[:5]) <= 4


def test_offdiagonal_correlation_is_numpys():
    x = spread(50, 4) @ spread(4, 4, seed=1)
    rho = torch.corrcoef(x.T)
    want = float((rho[~torch.eye(4, dtype=bool)] ** 2).mean() ** 0.5)
    assert offdiagonal_correlation(x) == pytest.approx(want, rel=1e-4)
    assert offdiagonal_correlation(x[:, :1] * torch.tensor([1.0, -2, 3])) == pytest.approx(
        1, abs=1e-5
    )


def test_wasserstein_uniformity_at_both_ends():
    assert wasserstein_uniformity(torch.ones(9, 4)) == pytest.approx(math.sqrt(2), abs=1e-6)
    assert wasserstein_uniformity(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(
        0, abs=1e-5
    )
    lost = spread(4000, 16)
    lost[:, 8:] = 0
    assert wasserstein_uniformity(lost) > 5 * wasserstein_uniformity(spread(4000, 16))
    assert (
        abs(float(uniformity(lost[:1000]) - uniformity(spread(1000, 16)))) < 0.5
    )  # hardly notices


def test_deviation_and_indicator_of_an_even_spread():
    x = spread(4096, 64)
    assert deviation(x) == pytest.approx(1, abs=0.02)
    assert uniformity_indicator(x) == pytest.approx(1 / 4096, rel=0.5)


def test_residual_energy_is_what_the_centre_leaves():
    views = spread(4, 50, 8) + spread(1, 50, 8, seed=1)
    means = F.normalize(views, dim=-1).mean(0)
    want = means.square().sum(-1).mean() - means.mean(0).square().sum()
    assert residual_energy(views) == pytest.approx(float(want), abs=1e-6)


def test_confusion_by_hand():
    line = torch.tensor(
        [[0.0, 1.0, 0.05], [0.1, 1.1, 2.0]]
    )  # on a circle, so that cosines order as distances
    views = torch.stack([line.cos(), line.sin()], -1)
    assert acr(views) == pytest.approx(2 / 3)
    perfect = spread(1, 20, 8).expand(3, -1, -1) + 1e-3 * spread(3, 20, 8, seed=1)
    assert acr(perfect) == 0.0 and generalised_acr(perfect) == 0.0
    assert arc(perfect, views) == pytest.approx(1 / (1 / 3))
    assert math.isnan(arc(perfect, torch.ones(2, 5, 3))) and math.isnan(acr(torch.ones(2, 5, 3)))


def test_confusion_ignores_scale_and_rotation():
    views = spread(3, 40, 6) + 1.5 * spread(1, 40, 6, seed=1)
    q, _ = torch.linalg.qr(spread(6, 6, seed=2))
    for figure in (acr, generalised_acr):
        assert 0 < figure(views) < 1
        assert figure(3 * views @ q) == pytest.approx(figure(views))


def test_generalised_confusion_is_a_loop():
    views = spread(3, 12, 5) + spread(1, 12, 5, seed=1)
    z = F.normalize(views.double(), dim=-1)
    for own in ("mean", "min", "max"):
        for others in ("mean", "min", "max"):
            reduce = {"mean": lambda x: sum(x) / len(x), "min": min, "max": max}
            confused = 0
            for i in range(12):
                mine = reduce[own]([float(1 - z[0, i] @ z[v, i]) for v in (1, 2)])
                theirs = [
                    reduce[others]([float(1 - z[0, i] @ z[v, j]) for v in range(3)])
                    for j in range(12)
                    if j != i
                ]
                confused += min(theirs) < mine
            assert generalised_acr(views, own, others) == pytest.approx(confused / 12)


def test_predictor_spectrum_of_an_aligned_and_a_random_predictor():
    f = torch.cov(spread(6, 100))
    s, u = torch.linalg.eigh(f)
    aligned = predictor_spectrum(u @ torch.diag(2 * s.sqrt()) @ u.T, f)
    assert aligned.alignment == pytest.approx(1, abs=1e-5) and aligned.commutator == pytest.approx(
        0, abs=1e-6
    )
    assert aligned.asymmetry == pytest.approx(0, abs=1e-6) and aligned.slope == pytest.approx(
        2, rel=1e-4
    )
    random = predictor_spectrum(spread(6, 6, seed=3), f)
    assert random.alignment < 0.9 and random.asymmetry > 0.1


def test_the_gap_of_a_moving_average():
    one, two = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        one.weight.fill_(2.0)
        two.weight.fill_(1.0)
    assert ema_gap(one, two) == pytest.approx(0.5) and ema_gap(one, one) == 0.0


@pytest.mark.parametrize("name", parts.names("diagnostics"))
def test_no_figure_calls_all_zero_embeddings_healthy(name):
    diagnostic = parts.find("diagnostics", name)
    shape = (3, 64, 16) if diagnostic.needs == "views" else (64, 16)
    value = diagnostic.measure(torch.zeros(*shape))
    assert diagnostic.verdict(value, 64, 16) in ("collapsed", "undefined", "watch")


def test_zeros_are_one_point_of_the_sphere():
    assert float(uniformity(directions(torch.zeros(5, 3)))) == pytest.approx(0, abs=1e-6)
    assert centre_norm(torch.zeros(5, 3)) == pytest.approx(1)
    assert uniformity_indicator(torch.zeros(5, 3)) == pytest.approx(1)
    # half zeros, half one direction: two orthogonal points, mean (1/2, 1/2)
    half = torch.tensor([[0.0, 0], [0, 0], [0, 3], [0, 4]])
    assert centre_norm(half) == pytest.approx(0.5**0.5)
    x = spread(9, 4)
    assert torch.equal(directions(x), F.normalize(x, dim=-1))
