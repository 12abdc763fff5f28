"""BatchNorm against torch's in float64, and what padding must not change."""

import pytest
import torch
from torch import nn

from speechssl.nn.batch_norm import BatchNorm, batch_norm, hold_running_statistics, normalise


def test_batch_norm_statistics_are_exact_for_many_rows() -> None:
    rows = (3 + torch.randn(40_000, 8)).requires_grad_()
    norm, exact = nn.BatchNorm1d(8), nn.BatchNorm1d(8).double()
    y, expected = batch_norm(norm, rows), exact(rows.detach().double())
    assert torch.allclose(y.double(), expected, atol=3e-6)
    assert torch.allclose(norm.running_var.double(), exact.running_var, rtol=2e-6)
    assert torch.allclose(norm.running_mean.double(), exact.running_mean, rtol=2e-6)
    assert int(norm.num_batches_tracked) == 1
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, rows, weights)
    double = rows.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(nn.BatchNorm1d(8).double()(double), double, weights.double())
    assert torch.allclose(gradient.double(), truth, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6, 5, 3)])
def test_padding_does_not_count_and_is_zero_afterwards(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    mask = torch.arange(6)[None, :] < torch.tensor([6, 3, 1, 5])[:, None]
    x[~mask] = 1e6
    norm = nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(3)
    rows = x[mask].reshape(-1, 3)
    expected = (rows - rows.mean(0)) / (rows.var(0, correction=0) + norm.eps).sqrt()
    y = normalise(norm, x, mask)
    torch.testing.assert_close(y[mask].reshape(-1, 3), expected, atol=1e-5, rtol=1e-5)
    assert (y[~mask] == 0).all()
    torch.testing.assert_close(norm.running_mean, 0.1 * rows.mean(0), atol=1e-5, rtol=1e-5)
    evaluated = normalise(norm.eval(), x, mask, relu=True)
    assert (evaluated[~mask] == 0).all() and (evaluated >= 0).all()


def test_a_converted_norm_is_called_as_it_is() -> None:
    class Shared(nn.Module):
        def forward(self, rows):
            assert rows.shape == (8, 3)
            return rows + 1

    layer = BatchNorm(3)
    layer.norm = Shared()
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(layer(x), x + 1)


def test_held_statistics_stay_and_a_row_does_not_depend_on_the_others():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).train()
    net(3 * torch.randn(50, 4) + 1)  # statistics that are not those of the start
    state = {key: value.clone() for key, value in net.state_dict().items()}
    hold_running_statistics(net)
    rows = torch.randn(8, 4)
    together = net(rows)
    alone = torch.cat([net(row[None]) for row in rows])
    torch.testing.assert_close(together, alone)
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key
    # the weights are still trained
    together.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_pass_of_few_rows_before_one_of_many_can_be_differentiated():
    torch.manual_seed(0)
    norm, plain = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    weights = torch.randn(4)
    for module, apply in ((norm, lambda x: batch_norm(norm, x)), (plain, plain)):
        torch.manual_seed(1)
        few, many = torch.randn(100, 4), torch.randn(3000, 4)
        loss = (apply(few).square() * weights).sum() + (apply(many).relu() * weights).sum()
        loss.backward()
        assert module.weight.grad.isfinite().all()
    torch.testing.assert_close(norm.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
