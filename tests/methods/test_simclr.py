"""NT-Xent against hand-computed values and a plain loop (methods/README.md 6)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechssl.interfaces import Encoder, Progress, Views
from speechssl.methods.simclr import SimCLR, nt_xent


def plain(views, temperature):
    """The definition, one anchor and one positive at a time."""
    count, batch = views.shape[:2]
    z = F.normalize(views.double(), dim=-1)
    losses = []
    for v in range(count):
        for i in range(batch):
            negatives = sum(
                math.exp(float(z[v, i] @ z[u, k]) / temperature)
                for u in range(count)
                for k in range(batch)
                if k != i
            )
            for u in range(count):
                if u != v:
                    positive = math.exp(float(z[v, i] @ z[u, i]) / temperature)
                    losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


def test_a_collapsed_model_has_log_2b_minus_1():
    assert float(nt_xent(torch.ones(2, 4, 3), 0.1)) == pytest.approx(math.log(7), abs=1e-6)


def test_two_orthogonal_pairs():
    views = torch.eye(2).expand(2, 2, 2)
    assert float(nt_xent(views, 0.5)) == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_many_views_are_the_definition(count):
    views = torch.randn(count, 4, 6)
    assert float(nt_xent(views, 0.2)) == pytest.approx(plain(views, 0.2), rel=1e-5)


def test_scale_and_rotation_change_nothing():
    views = torch.randn(2, 5, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    torch.testing.assert_close(
        nt_xent(views, 0.1), nt_xent(3.0 * views @ rotation, 0.1), rtol=1e-4, atol=1e-5
    )


def test_gathered_halves_average_to_the_whole():
    views = torch.randn(2, 6, 5)
    halves = [nt_xent(views[:, a : a + 3], 0.1, views, first=a) for a in (0, 3)]
    torch.testing.assert_close(sum(halves) / 2, nt_xent(views, 0.1))


class Mean(Encoder):
    embedding_dim = 6

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, features, lengths=None):
        return self.layer(features.mean(1))


def test_it_learns_a_fixed_batch_and_every_parameter_gets_gradient():
    torch.manual_seed(0)
    method = SimCLR(Mean(), hidden=8, projection=4)
    base = torch.randn(1, 6, 1, 4)
    views = [
        Views(base + 0.05 * torch.randn(2, 6, 7, 4)),
        Views(base + 0.05 * torch.randn(3, 6, 5, 4)),
    ]
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = method(views, Progress(0, 1, 1)).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
