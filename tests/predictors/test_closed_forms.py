"""Predictors by hand-computed values and invariances (methods/README.md 2.3 to 2.6, 2.10)."""

import pytest
import torch
import torch.nn.functional as F

from speechssl import parts
from speechssl.errors import UserError
from speechssl.methods.simsiam import predictive_loss
from speechssl.predictors.directpred import gains

CLOSED = ["directpred", "directset", "directcopy", "isoloss"]
DIM = 6


def make(name, dim=DIM, **settings):
    torch.manual_seed(0)
    return parts.build("predictors", {"name": name, **settings}, dim).train()


def batch(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(predictor, f):
    predictor.correlation.value.copy_(f)
    return predictor.weights()


def test_directpred_gains_of_a_spectrum_of_4_and_1():
    s = torch.tensor([4.0, 1.0])
    assert gains(s, 0.1, "relative").tolist() == pytest.approx([1.1, 0.6])
    assert gains(s, 0.1, "paper").tolist() == pytest.approx([2.4, 1.4])
    assert gains(torch.zeros(2), 0.0, "relative").tolist() == pytest.approx([1e-4, 1e-4])


def test_directcopy_as_released_and_with_spectral_norm():
    f = torch.diag(torch.tensor([4.0, 1.0]))
    weight = correlated(make("directcopy", 2, epsilon=0.3), f)
    torch.testing.assert_close(weight, torch.diag(torch.tensor([4.3, 1.3])))
    weight = correlated(make("directcopy", 2, epsilon=0.3, norm="spectral"), f)
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.3, 0.55])))


def test_directset_half_is_directpreds_spectrum():
    f = torch.diag(torch.tensor([4.0, 1.0]))
    weight = correlated(make("directset", 2, alpha=0.5, epsilon=0.1), f)
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.1, 0.6])))
    free = correlated(make("directset", 2, alpha=1.0, epsilon=0.3, norm="none"), f)
    torch.testing.assert_close(free, torch.diag(torch.tensor([4.3, 1.3])))


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_symmetric_commute_with_f_and_turn_with_z(name):
    z, predictor = batch(64, DIM) * torch.arange(1, DIM + 1), make(name)
    predictor.observe(z)
    f, w = predictor.correlation.value, predictor.weights()
    torch.testing.assert_close(w, w.T, atol=1e-5, rtol=1e-5)
    assert (w @ f - f @ w).norm() / (2 * w.norm() * f.norm()) < 1e-6
    q, _ = torch.linalg.qr(batch(DIM, DIM, seed=3))
    turned = make(name)
    turned.observe(z @ q)
    torch.testing.assert_close(turned.weights(), q.T @ w @ q, atol=1e-4, rtol=1e-3)
    assert not predictor.weight.requires_grad and not list(predictor.parameters())


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_set_every_so_many_steps_beginning_with_the_first(name):
    predictor = make(name, frequency=3)
    predictor.observe(batch(64, DIM))
    assert torch.equal(predictor.weight, torch.eye(DIM))
    predictor.after_step(0)
    first = predictor.weight.clone()
    assert not torch.equal(first, torch.eye(DIM))
    predictor.observe(10 * batch(64, DIM, seed=1) * torch.arange(DIM))
    for step in (1, 2):
        predictor.after_step(step)
        assert torch.equal(predictor.weight, first)
    predictor.after_step(3)
    assert not torch.equal(predictor.weight, first)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("frequency", [0, -1])
def test_a_frequency_below_one_step_is_refused(name, frequency):
    with pytest.raises(UserError, match=f"predictor.frequency must be at least 1, not {frequency}"):
        make(name, frequency=frequency)


def test_the_scale_of_w_is_not_seen_by_the_cosine():
    z, t = batch(8, DIM), batch(8, DIM, seed=1)
    predictor = make("directpred")
    predictor.observe(batch(64, DIM))
    predictor.after_step(0)
    value = predictor.cosine(z, predictor(z), t)
    predictor.weight.mul_(7.0)
    torch.testing.assert_close(predictor.cosine(z, predictor(z), t), value)


def test_offdiag_starts_as_none_and_its_diagonal_never_moves():
    z, t = batch(2, 8, DIM), batch(2, 8, DIM, seed=1)
    predictor = make("offdiag")
    assert torch.equal(predictive_loss(z, t, predictor), predictive_loss(z, t, make("none")))
    optimizer = torch.optim.SGD(predictor.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        predictive_loss(z, t, predictor).backward()
        optimizer.step()
    a = predictor.offdiagonal.detach()
    assert a.abs().sum() > 0 and torch.equal(a.diagonal(), torch.zeros(DIM))
    full = torch.eye(DIM) + a
    torch.testing.assert_close(predictor(z[0]), z[0] @ full.T)


def test_isoloss_hands_the_gradient_in_p_to_z():
    z, t = batch(8, DIM).requires_grad_(), batch(8, DIM, seed=1)
    predictor = make("isoloss")
    predictor.observe(3 * batch(64, DIM) * torch.arange(1, DIM + 1))
    predictor.after_step(0)
    value = predictor.cosine(z, predictor(z), t)
    p = predictor(z).detach().requires_grad_()
    plain = F.cosine_similarity(p, t, dim=-1)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(
        torch.autograd.grad(value.sum(), z)[0],
        torch.autograd.grad(plain.sum(), p)[0],
        atol=1e-6,
        rtol=1e-4,
    )
    length, t_length = p.norm(dim=1, keepdim=True), t.norm(dim=1, keepdim=True)
    formula = t / (length * t_length) - (p * t).sum(1, keepdim=True) * p / (length**3 * t_length)
    (again,) = torch.autograd.grad(predictor.cosine(z, predictor(z), t).sum(), z)
    torch.testing.assert_close(again, formula.detach(), atol=1e-6, rtol=1e-4)


def test_the_mlp_is_a_bottleneck_without_norm_at_its_end():
    predictor = make("mlp", 32)
    assert [tuple(p.shape) for p in predictor.parameters()] == [(8, 32), (8,), (8,), (32, 8), (32,)]
    assert predictor.rule() is None
    rule = make("mlp", constant_lr=True).rule()
    assert rule.constant and len(rule.parameters) == 5


def test_an_unknown_predictor_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no 'directpredd' .did you mean 'directpred'"):
        parts.build("predictors", "directpredd", 4)


def test_isoloss_sets_its_weight_in_the_forward_pass_where_asked_to():
    z = batch(64, DIM) * torch.arange(1, DIM + 1)
    predictor = make("isoloss", timing="forward")
    late = make("isoloss")
    predictor.observe(z)
    late.observe(z)
    assert torch.equal(late.weight, torch.eye(DIM))
    late.after_step(0)
    assert torch.equal(predictor.weight, late.weight)
    predictor.observe(3 * batch(64, DIM, seed=1))
    with_this_batch = predictor.weight.clone()
    predictor.after_step(1)
    assert torch.equal(predictor.weight, with_this_batch)
    with pytest.raises(UserError, match="frequency must be 1 with predictor.timing=forward"):
        make("isoloss", timing="forward", frequency=2)
