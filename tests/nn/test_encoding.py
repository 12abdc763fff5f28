"""One batch of all views, or one view at a time: a whole step against a plain loop (methods/README.md 0)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechssl import parts
from speechssl.interfaces import Encoder, Progress, Views
from speechssl.nn.encoding import encode

MELS = 6


class Normed(Encoder):
    """Mean over frames, a linear layer and BatchNorm: what a view is, depends on its batch."""

    embedding_dim = 5

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(MELS, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, features, lengths=None):
        return self.norm(self.layer(features.mean(1)))


def double(method):
    return method.double().train()


def gradients(method, loss):
    method.zero_grad()
    loss.backward()
    return {key: p.grad for key, p in method.named_parameters() if p.grad is not None}


def crops(batch=8, count=2):
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, batch, 7, MELS, generator=g, dtype=torch.float64)


def plain_simsiam(method, views):
    """The released program: each view through encoder, projector and predictor by itself."""
    z = [method.net.projector(method.net.encoder(view)) for view in views]
    p = [method.predictor(one) for one in z]
    first = F.cosine_similarity(p[0], z[1].detach(), dim=1).mean()
    second = F.cosine_similarity(p[1], z[0].detach(), dim=1).mean()
    return -(first + second) / 2


def plain_byol(method, views):
    z = [method.net.projector(method.net.encoder(view)) for view in views]
    with torch.no_grad():
        t = [method.teacher.projector(method.teacher.encoder(view)) for view in views]
    p = [method.predictor(one) for one in z]
    distances = []
    for online, target in ((0, 1), (1, 0)):
        distances.append((F.normalize(p[online], dim=1) - F.normalize(t[target], dim=1)).square())
    return sum(distance.sum(1).mean() for distance in distances) / 2


def plain_vicreg(method, views):
    one, two = (method.net.projector(method.net.encoder(view)) for view in views)
    loss = 25 * (one - two).square().mean()
    for z in (one, two):
        deviation = (z.var(0) + 1e-4).sqrt()
        loss = loss + 12.5 * F.relu(1 - deviation).mean()
        covariance = torch.cov(z.T)
        loss = loss + (covariance - covariance.diag().diag()).square().sum() / z.shape[1]
    return loss


def plain_simclr(method, views):
    z = torch.cat([F.normalize(method.projector(method.net(view)), dim=1) for view in views])
    logits = (z @ z.T / method.temperature).fill_diagonal_(-torch.inf)
    count = len(z) // 2
    return F.cross_entropy(logits, torch.arange(2 * count).roll(count))


PLAIN = {
    "simsiam": plain_simsiam,
    "byol": plain_byol,
    "vicreg": plain_vicreg,
    "simclr": plain_simclr,
}


def float64_everywhere(monkeypatch):
    """Methods take projections to float32 first, which would hide a difference of 1e-12."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize("batch", [2, 8])
@pytest.mark.parametrize("name", PLAIN)
def test_a_whole_step_view_by_view_is_the_plain_loop(name, batch, monkeypatch):
    float64_everywhere(monkeypatch)
    torch.manual_seed(0)
    settings = {"name": name, "hidden": 9, "projection": 4}
    method = double(parts.build("methods", settings, Normed()))
    same = copy.deepcopy(method)
    x = crops(batch)
    ours = method([Views(x, per_view=True)], Progress(0, 10, 5)).loss
    theirs = PLAIN[name](same, x)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-10)
    got, want = gradients(method, ours), gradients(same, theirs)
    assert got.keys() == want.keys()
    for key, gradient in want.items():
        torch.testing.assert_close(got[key], gradient, atol=1e-9, rtol=1e-7, msg=key)
    for key, value in same.state_dict().items():  # the running statistics, view after view
        torch.testing.assert_close(method.state_dict()[key], value, msg=key)


@pytest.mark.parametrize("name", PLAIN)
def test_jointly_it_is_another_loss(name, monkeypatch):
    float64_everywhere(monkeypatch)
    torch.manual_seed(0)
    method = double(parts.build("methods", {"name": name, "hidden": 9, "projection": 4}, Normed()))
    joint = method([Views(crops())], Progress(0, 10, 5)).loss
    apart = method([Views(crops(), per_view=True)], Progress(0, 10, 5)).loss
    assert abs(float(joint - apart)) > 1e-4


def test_jointly_batchnorm_sees_all_views_of_a_length_and_apart_one_at_a_time():
    torch.manual_seed(0)
    encoder = double(Normed())
    shift = torch.tensor([0.0, 5.0], dtype=torch.float64)[:, None, None, None]
    x = crops() + shift
    joint = encode(encoder, Views(x))
    apart = encode(encoder, Views(x, per_view=True))
    zero = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(joint.mean((0, 1)), zero, atol=1e-12, rtol=0)
    assert (joint[0].mean(0) - joint[1].mean(0)).abs().max() > 1
    for view in apart:
        torch.testing.assert_close(view.mean(0), zero, atol=1e-12, rtol=0)


def test_without_batch_statistics_both_are_the_same():
    encoder = Normed().double().eval()
    x = crops(count=3)
    torch.testing.assert_close(
        encode(encoder, Views(x)), encode(encoder, Views(x, per_view=True)), atol=1e-14, rtol=0
    )
