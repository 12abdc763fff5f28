"""BYOL and SimSiam by hand, and their training steps (methods/README.md 2.1, 2.2, 3)."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from speechssl import parts
from speechssl.errors import UserError
from speechssl.interfaces import Progress
from speechssl.methods.simsiam import predictive_loss
from speechssl.predictors.none import NoPredictor

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
from _methods import make, views

START = Progress(0, 100, 5)


def z_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines_of_pairs(z, t):
    """Mean cosine of every view v of four and every target u of two that is another view."""
    cosines = []
    for u in range(2):
        cosines += [F.cosine_similarity(z[v], t[u], dim=-1).mean() for v in range(4) if v != u]
    return cosines


def test_predictive_loss_of_equal_and_opposite_views():
    z = z_of(1, 5, 4).expand(2, -1, -1)
    assert float(predictive_loss(z, z, NoPredictor(4))) == pytest.approx(-1, abs=1e-6)
    opposite = torch.stack([z[0], -z[0]])
    assert float(predictive_loss(opposite, opposite, NoPredictor(4))) == pytest.approx(1, abs=1e-6)


def test_predictive_loss_is_the_mean_over_pairs_of_a_target_and_another_view():
    z = z_of(4, 5, 3)
    t = z_of(2, 5, 3, seed=1)
    cosines = cosines_of_pairs(z, t)
    torch.testing.assert_close(predictive_loss(z, t, NoPredictor(3)), -sum(cosines) / len(cosines))


def test_the_gradient_is_orthogonal_to_the_prediction_and_inverse_to_its_length():
    p = z_of(6, 4).requires_grad_()
    t = z_of(6, 4, seed=1)
    (one,) = torch.autograd.grad(F.cosine_similarity(p, t, dim=-1).sum(), p)
    assert (one * p).sum(-1).abs().max() < 1e-6
    scaled = (3 * p).detach().requires_grad_()
    (three,) = torch.autograd.grad(F.cosine_similarity(scaled, t, dim=-1).sum(), scaled)
    torch.testing.assert_close(three, one / 3)


def test_byol_is_two_minus_two_cosines_between_zero_and_four():
    method = make("byol", predictor="none")
    online = method.net
    output = method(views(), START)
    with torch.no_grad():
        z = []
        for group in views():
            z += [online.projector(online.encoder(view)) for view in group.features]
        teacher = method.teacher
        t = [teacher.projector(teacher.encoder(view)) for view in views()[0].features]
    assert 0 <= float(output.loss.detach()) <= 4
    cosines = cosines_of_pairs(z, t)
    assert float(output.loss.detach()) == pytest.approx(
        float(2 - 2 * sum(cosines) / len(cosines)), abs=0.2
    )


def test_the_teacher_moves_after_the_step_and_gets_no_gradient():
    method = make("byol")
    before = [p.clone() for p in method.teacher.parameters()]
    method(views(), START).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    with torch.no_grad():
        for p in method.net.parameters():
            p.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, method.teacher.parameters(), strict=True))
    method.after_step(START)
    for a, b in zip(before, method.teacher.parameters(), strict=True):
        torch.testing.assert_close(b, 0.9 * a + 0.1 * (a + 1.0))


def test_simsiams_released_output_norm_has_no_weights():
    projector = make("simsiam").net.projector
    assert not projector[-1].affine and projector[-2].bias is None


@pytest.mark.parametrize("name", ["byol", "simsiam"])
@pytest.mark.parametrize("count", [2, 4])
def test_guided_training_steps(name, count):
    method = make(name, predictor="none", gsg=count)
    output = method(views(count=4), START)
    output.loss.backward()
    assert output.loss.isfinite()
    with pytest.raises(UserError, match="gsg=4 needs 4 long views"):
        make(name, gsg=4)(views(count=2), START)


def test_the_predictors_settings_are_checked_and_filled_in():
    checked = parts.check("methods", {"name": "byol", "predictor": "offdiag"}, "method")
    assert checked["predictor"] == {"name": "offdiag", "lr_scale": 1.0, "decay": False}
    checked = parts.check("methods", {"name": "byol", "predictor": {"hidden": 4}}, "method")
    assert checked["predictor"]["name"] == "mlp" and checked["predictor"]["hidden"] == 4
    with pytest.raises(UserError, match="method.predictor.hiden"):
        parts.check("methods", {"name": "byol", "predictor": {"name": "mlp", "hiden": 4}}, "method")
    with pytest.raises(UserError, match="method.predictor must be a name"):
        parts.check("methods", {"name": "byol", "predictor": 3}, "method")


def test_a_predictors_rule_reaches_the_optimiser():
    from speechssl.train.optimizers import OptimizerSettings, build_optimizer, schedule

    method = make("simsiam", predictor={"name": "mlp", "constant_lr": True})
    settings = OptimizerSettings(lr=0.5, final_lr_ratio=0.01, warmup=0.1, weight_decay=0.1)
    optimizer = build_optimizer(method, settings)
    schedule(optimizer, settings, 1.0, 8)
    heads = {id(p) for p in method.predictor.parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(0.5 if id(parameter) in heads else 0.005)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
    method = make("byol", predictor={"name": "offdiag", "lr_scale": 3.0})
    optimizer = build_optimizer(method, settings)
    schedule(optimizer, settings, 0.1, 8)
    offdiagonal = method.predictor.offdiagonal
    (group,) = [g for g in optimizer.param_groups if any(p is offdiagonal for p in g["params"])]
    assert group["lr"] == pytest.approx(1.5) and group["weight_decay"] == 0.0
    assert sum(len(g["params"]) for g in optimizer.param_groups) == sum(
        p.requires_grad for p in method.parameters()
    )
