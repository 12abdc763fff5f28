"""DINO's formulas against closed forms (methods/README.md 1.5)."""

import math

import pytest
import torch
import torch.nn.functional as F

from speechssl.losses.distillation import dino_loss, koleo, sinkhorn
from speechssl.methods.vicreg import variance_covariance
from speechssl.nn.dino_head import DinoHead
from speechssl.nn.schedules import cosine_schedule


def every_pair(teachers, students):
    return torch.tensor([[u != v for v in range(students)] for u in range(teachers)])


def loss_of(s, t, centre=0.0, tau_s=0.1, tau_t=0.04):
    """The loss of logits (V, B, K) and (U, B, K) as the method puts it together."""
    q = ((t - centre) / tau_t).softmax(-1)
    return dino_loss((s / tau_s).log_softmax(-1), q, every_pair(len(t), len(s)))


def test_uniform_teacher_and_student_give_ln_k():
    assert loss_of(torch.zeros(6, 3, 4), torch.zeros(2, 3, 4)).item() == pytest.approx(
        1.386294, abs=1e-6
    )


def test_agreement_on_one_prototype_is_the_closed_form():
    logits = torch.eye(4, dtype=torch.float64)[:1].expand(2, 5, 4)
    q = torch.eye(4, dtype=torch.float64)[:1].expand(2, 5, 4)
    got = dino_loss((logits / 0.1).log_softmax(-1), q, every_pair(2, 2))
    assert got.item() == pytest.approx(math.log(1 + 3 * math.exp(-10)), rel=1e-9)
    assert got.item() == pytest.approx(1.3619e-4, rel=1e-4)


def test_a_row_of_logits_may_be_shifted_on_either_side():
    torch.manual_seed(0)
    s = torch.randn(3, 4, 8).double()
    t = torch.randn(2, 4, 8).double()
    want = loss_of(s, t)
    torch.testing.assert_close(loss_of(s + torch.randn(3, 4, 1), t), want)
    torch.testing.assert_close(loss_of(s, t + torch.randn(2, 4, 1)), want)


def test_the_loss_is_the_mean_over_ten_pairs_of_six_views():
    torch.manual_seed(0)
    s = torch.randn(6, 4, 8).double()
    t = torch.randn(2, 4, 8).double()
    assert every_pair(2, 6).sum() == 10
    log_p = (s / 0.1).log_softmax(-1)
    q = (t / 0.04).softmax(-1)
    terms = []
    for u in range(2):  # torch's own soft-label cross-entropy
        terms += [F.cross_entropy(s[v] / 0.1, q[u]) for v in range(6) if v != u]
    assert len(terms) == 10
    torch.testing.assert_close(dino_loss(log_p, q, every_pair(2, 6)), sum(terms) / 10)


def test_gradients_are_those_of_the_closed_form():
    torch.manual_seed(0)
    s = torch.randn(2, 1, 8, dtype=torch.float64, requires_grad=True)
    q = torch.randn(2, 1, 8, dtype=torch.float64).mul(4).softmax(-1)
    dino_loss((s / 0.1).log_softmax(-1), q, every_pair(2, 2)).backward()
    closed = (
        ((s.detach() / 0.1).softmax(-1) - q.flip(0)) / 0.1 / 2
    )  # two pairs: each view meets the other
    torch.testing.assert_close(s.grad, closed)
    torch.testing.assert_close(s.grad.sum(-1), torch.zeros(2, 1, dtype=torch.float64))


def test_sinkhorn_of_constant_logits_is_uniform():
    torch.testing.assert_close(sinkhorn(torch.full((6, 4), 3.0), 0.04), torch.full((6, 4), 0.25))


def test_sinkhorn_cannot_collapse_when_all_prefer_the_same_prototype():
    logits = torch.zeros(12, 4)
    logits[:, 0] = 1.0
    torch.testing.assert_close(sinkhorn(logits, 0.04), torch.full((12, 4), 0.25))


def test_sinkhorn_rows_sum_to_one_and_columns_to_their_share():
    torch.manual_seed(0)
    logits = F.normalize(torch.randn(64, 8), dim=-1)
    q = sinkhorn(logits, 0.1, iterations=60)
    torch.testing.assert_close(q.sum(1), torch.ones(64))
    torch.testing.assert_close(q.sum(0), torch.full((8,), 8.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(sinkhorn(logits, 0.1).sum(1), torch.ones(64))
    torch.testing.assert_close(
        sinkhorn(logits, 0.1).sum(0), torch.full((8,), 8.0), atol=1.0, rtol=0
    )


def test_sinkhorn_survives_large_logits_and_a_shift():
    torch.manual_seed(0)
    logits = torch.randn(16, 4)
    assert sinkhorn(1e3 * logits, 0.04).isfinite().all()
    torch.testing.assert_close(sinkhorn(logits + 50, 0.5), sinkhorn(logits, 0.5), atol=1e-4, rtol=0)


def test_koleo_of_orthonormal_collapsed_and_antipodal_samples():
    assert koleo(torch.eye(3)).item() == pytest.approx(-0.346574, abs=1e-6)
    assert koleo(torch.ones(4, 5)).item() == pytest.approx(18.42, abs=0.01)
    antipodal = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert koleo(antipodal).item() == pytest.approx(-math.log(2), abs=1e-6)


def test_koleo_ignores_the_scale_and_pushes_neighbours_apart():
    torch.manual_seed(0)
    x = torch.randn(6, 4, requires_grad=True)
    torch.testing.assert_close(koleo(7 * x), koleo(x))
    before = koleo(x)
    (gradient,) = torch.autograd.grad(before, x)
    assert koleo(x - 0.01 * gradient) < before


def test_koleo_has_a_finite_gradient_at_two_equal_samples():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    koleo(x).backward()
    assert x.grad.isfinite().all()


def test_variance_and_covariance_are_vicregs_hand_values():
    duplicated = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    hinge, covariance = variance_covariance(duplicated)
    assert hinge.item() == 0.0
    assert covariance.item() == pytest.approx(4.0)  # a view; 8 for the two of VICReg
    hinge, covariance = variance_covariance(torch.full((5, 3), 2.0))
    assert hinge.item() == pytest.approx(0.99)
    assert covariance.item() == 0.0
    pattern = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert [x.item() for x in variance_covariance(pattern)] == pytest.approx([0.0, 0.0], abs=1e-6)
    torch.manual_seed(0)
    z = torch.randn(9, 4)
    torch.testing.assert_close(
        variance_covariance(z + 5), variance_covariance(z), atol=1e-5, rtol=1e-5
    )


def head(**options):
    settings = {
        "prototypes": 7, "layers": 3, "hidden": 16, "bottleneck": 6,
        "batchnorm": False, "regularised": 0, "frozen_gain": True,
    } | options  # fmt: skip
    torch.manual_seed(0)
    return DinoHead(5, *settings.values())


def test_logits_are_cosines_and_the_gain_is_frozen():
    h = head()
    x = 30 * torch.randn(50, 5)
    logits, _ = h(x)
    assert logits.shape == (50, 7) and logits.dtype == torch.float32
    assert logits.abs().max() <= 1 + 1e-6
    assert not h.weight_g.requires_grad and (h.weight_g == 1).all()
    z = h.mlp(x).detach()
    want = torch.nn.functional.cosine_similarity(z[:, None], h.weight_v[None], dim=-1)
    torch.testing.assert_close(logits, want, atol=1e-6, rtol=1e-5)


def test_logits_do_not_change_when_bottleneck_or_prototype_is_rescaled():
    h = head()
    x = torch.randn(9, 5)
    want, _ = h(x)
    with torch.no_grad():
        h.mlp[-1].weight.mul_(3)
        h.mlp[-1].bias.mul_(3)
        h.weight_v[2].mul_(5)
    torch.testing.assert_close(h(x)[0], want)


def test_the_gain_scales_when_it_is_free():
    h = head(frozen_gain=False)
    assert h.weight_g.requires_grad
    x = torch.randn(9, 5)
    want, _ = h(x)
    with torch.no_grad():
        h.weight_g.fill_(2)
    torch.testing.assert_close(h(x)[0], 2 * want)


def test_the_layers_of_the_head():
    kinds = [type(m).__name__ for m in head().mlp]
    assert kinds == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    kinds = [type(m).__name__ for m in head(batchnorm=True).mlp]
    assert kinds == ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]
    assert [type(m).__name__ for m in head(layers=1).mlp] == ["Linear"]
    assert len(head(layers=0).mlp) == 0 and head(layers=0).weight_v.shape == (7, 5)
    logits, layer = head(regularised=32)(torch.randn(4, 5))
    assert logits.shape == (4, 7) and layer.shape == (4, 32)
    for module in head().modules():
        if isinstance(module, torch.nn.Linear):
            assert 0.01 < module.weight.std() < 0.03
            assert module.weight.abs().max() <= 2 and (module.bias == 0).all()


def test_the_momentum_schedule_is_half_a_cosine():
    got = [cosine_schedule(0.996, 1.0, f) for f in (0.0, 0.5, 1.0)]
    assert got == pytest.approx([0.996, 0.998, 1.0], abs=1e-12)
    assert cosine_schedule(0.9, 1.0, 0.25) == pytest.approx(
        1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2
    )
