"""Parameter groups, schedules on an optimiser, and clipping, by hand."""

import math

import pytest
import torch
from torch import nn

from speechssl.errors import UserError
from speechssl.train.optimizers import (
    OptimizerSettings,
    build_optimizer,
    clip_gradients,
    parameter_groups,
    schedule,
)

KINDS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 3), nn.Linear(2, 2))
    net[3].requires_grad_(False)
    return net


def with_gradients(*norms):
    """Parameters (3 numbers each) whose gradients have these norms."""
    out = []
    for norm in norms:
        p = nn.Parameter(torch.zeros(3))
        p.grad = torch.tensor([0.6, 0.0, 0.8]) * norm
        out.append(p)
    return out


def norms(parameters):
    return [p.grad.norm().item() for p in parameters]


def test_weight_decay_spares_biases_norms_and_what_is_frozen():
    net = module()
    decayed, plain = parameter_groups(net)
    assert {id(p) for p in decayed["params"]} == {id(net[0].weight), id(net[2].weight)}
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (net[0].bias, *net[1].parameters(), net[2].bias)
    }


@pytest.mark.parametrize("name", KINDS)
def test_one_step_without_gradient_only_decays_matrices(name):
    net = module()
    settings = OptimizerSettings(name=name, lr=0.1, warmup=0.0, weight_decay=0.5, momentum=0.0)
    optimizer = build_optimizer(net, settings)
    assert type(optimizer) is KINDS[name]
    before = {k: v.clone() for k, v in net.named_parameters()}
    for p in net.parameters():
        if p.requires_grad:
            p.grad = torch.zeros_like(p)
    schedule(optimizer, settings, 0.0, 64)
    optimizer.step()
    for key, p in net.named_parameters():
        moved = p.ndim >= 2 and p.requires_grad
        assert torch.equal(p, before[key]) != moved, key
        if moved and name != "adam":  # decoupled: p (1 - lr wd); sgd: p - lr wd p
            torch.testing.assert_close(p.detach(), before[key] * (1 - 0.1 * 0.5))


def test_the_rate_scales_with_the_batch_when_asked():
    net = module()
    for batch_of_lr, batch, want in (
        (None, 999, 0.004),
        (256, 256, 0.004),
        (256, 96, 0.0015),
        (256, 512, 0.008),
    ):
        settings = OptimizerSettings(lr=0.004, reference_batch_size=batch_of_lr, warmup=0.0)
        optimizer = build_optimizer(net, settings)
        assert schedule(optimizer, settings, 0.0, batch) == pytest.approx(want)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([want, want])


def test_rate_and_decay_follow_the_run():
    settings = OptimizerSettings(
        lr=1.0, final_lr_ratio=0.01, warmup=0.1, weight_decay=0.04, weight_decay_end=0.4
    )
    optimizer = build_optimizer(module(), settings)
    for fraction, rate, decay in (
        (0.0, 0.0, 0.04),
        (0.1, 1.0, None),
        (0.5, None, 0.22),
        (1.0, 0.01, 0.4),
    ):
        got = schedule(optimizer, settings, fraction, 64)
        assert rate is None or got == pytest.approx(rate)
        assert decay is None or optimizer.param_groups[0]["weight_decay"] == pytest.approx(decay)
        assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_a_constant_weight_decay_stays():
    settings = OptimizerSettings(weight_decay=1e-4)
    optimizer = build_optimizer(module(), settings)
    for fraction in (0.0, 0.3, 1.0):
        schedule(optimizer, settings, fraction, 64)
        assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(1e-4)


def test_the_lowest_rate_is_absolute_whatever_the_batch():
    settings = OptimizerSettings(lr=0.4, reference_batch_size=256, min_lr=1e-5, warmup=0.1)
    optimizer = build_optimizer(module(), settings)
    for batch in (64, 256, 1024):
        assert schedule(optimizer, settings, 0.1, batch) == pytest.approx(0.4 * batch / 256)
        assert schedule(optimizer, settings, 1.0, batch) == pytest.approx(1e-5)
    with pytest.raises(UserError, match="min_lr"):
        OptimizerSettings(min_lr=-1.0)


def test_clipping_each_tensor_leaves_the_small_ones_alone():
    parameters = with_gradients(1.0, 4.0, 12.0)
    total = clip_gradients(parameters, OptimizerSettings(clip=3.0, clip_mode="tensor"))
    assert norms(parameters) == pytest.approx([1.0, 3.0, 3.0], rel=1e-5)
    assert total.item() == pytest.approx(math.sqrt(1 + 16 + 144))
    torch.testing.assert_close(parameters[2].grad, torch.tensor([1.8, 0.0, 2.4]))


def test_clipping_together_keeps_the_direction():
    parameters = with_gradients(3.0, 4.0)
    total = clip_gradients(parameters, OptimizerSettings(clip=1.0, clip_mode="global"))
    assert total.item() == pytest.approx(5.0)
    assert norms(parameters) == pytest.approx([0.6, 0.8], rel=1e-5)
    parameters = with_gradients(0.3, 0.4)
    clip_gradients(parameters, OptimizerSettings(clip=1.0, clip_mode="global"))
    assert norms(parameters) == pytest.approx([0.3, 0.4])


def test_clipping_agrees_with_torch():
    torch.manual_seed(0)
    gradients = [torch.randn(4, 5), torch.randn(7)]
    ours, theirs = ([nn.Parameter(torch.zeros_like(g)) for g in gradients] for _ in range(2))
    for a, b, g in zip(ours, theirs, gradients, strict=True):
        a.grad, b.grad = g.clone(), g.clone()
    got = clip_gradients(ours, OptimizerSettings(clip=0.5, clip_mode="global"))
    want = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    torch.testing.assert_close(got, want)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_no_clipping_and_no_gradients():
    parameters = with_gradients(12.0)
    assert clip_gradients(parameters, OptimizerSettings(clip=None)) is None
    assert norms(parameters) == pytest.approx([12.0])
    assert clip_gradients([nn.Parameter(torch.zeros(2))], OptimizerSettings()) is None
