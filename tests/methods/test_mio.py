"""MIO's released loss: known answers, the formula written anew (methods/README.md 6.5)."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import ToyEncoder
from torch import nn

from speechssl.methods.mio import MIO, mio_terms


def softplus(x):
    return math.log1p(math.exp(x))


def total(one, two, mse_weight=0.0, **settings):
    positive, negative, distance = mio_terms(one, two, **settings)
    return positive + negative + mse_weight * distance


def by_binary_cross_entropy(one, two, tau_p, tau_n, mse_weight):
    """Every pair of the 2B projections is classified by itself; classes weigh alike."""
    count = len(one)
    one, two = (z / z.norm(dim=1, keepdim=True) for z in (one, two))
    both = torch.cat([one, two])
    positive, negative = [], []
    for i in range(2 * count):
        for j in range(2 * count):
            if i == j:
                continue
            cosine = both[i] @ both[j]
            if abs(i - j) == count:
                positive.append(-torch.log(torch.sigmoid(cosine / tau_p)))
            else:
                negative.append(-torch.log(1 - torch.sigmoid(cosine / tau_n)))
    assert len(positive) == 2 * count and len(negative) == 2 * count * (2 * count - 2)
    loss = torch.stack(positive).mean() + torch.stack(negative).mean()
    return loss + mse_weight * ((one - two) ** 2).sum() / one.numel()


@pytest.mark.parametrize("count", [2, 4, 9])
@pytest.mark.parametrize(("tau_p", "tau_n", "weight"), [(0.5, 0.5, 1.0), (0.3, 0.7, 0.0)])
def test_value_and_gradient_are_those_of_the_formula(count, tau_p, tau_n, weight):
    torch.manual_seed(count)
    views = torch.randn(2, count, 5, dtype=torch.float64)
    ours, theirs = views.clone().requires_grad_(), views.clone().requires_grad_()
    loss = total(*ours, weight, tau_p=tau_p, tau_n=tau_n)
    want = by_binary_cross_entropy(*theirs, tau_p, tau_n, weight)
    assert loss.item() == pytest.approx(want.item(), abs=1e-12)
    loss.backward()
    want.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-10)


def test_a_collapsed_model_has_a_loss_without_gradient():
    views = torch.ones(2, 4, 3, dtype=torch.float64, requires_grad=True)
    loss = total(*views, 1.0)
    assert float(loss) == pytest.approx(softplus(-2) + softplus(2), abs=1e-12)
    assert float(loss) == pytest.approx(2.253856, abs=1e-6)
    loss.backward()
    torch.testing.assert_close(views.grad, torch.zeros_like(views), atol=1e-15, rtol=0)


def test_orthogonal_pairs():
    eye = torch.eye(4, dtype=torch.float64)
    positive, negative, distance = mio_terms(eye, eye)
    assert float(positive) == pytest.approx(0.126928, abs=1e-6)
    assert float(negative) == pytest.approx(math.log(2), abs=1e-12)
    assert float(distance) == 0.0


def test_views_that_match_those_of_another_utterance():
    eye = torch.eye(4, dtype=torch.float64)
    # 2 x 4 of the 48 negative entries have a cosine of 1, all others 0
    want = math.log(2) + (8 * softplus(2) + 40 * math.log(2)) / 48
    assert float(total(eye, eye.roll(1, 0))) == pytest.approx(want, abs=1e-12)
    assert want == pytest.approx(1.625258, abs=1e-6)  # the released program's value


def test_two_opposite_utterances_have_the_least_loss_there_is():
    one = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    least = float(total(one, one))
    assert least == pytest.approx(2 * softplus(-2), abs=1e-12)
    torch.manual_seed(0)
    for _ in range(100):
        assert float(total(*torch.randn(2, 2, 3, dtype=torch.float64))) > least


def test_length_and_rotation_change_nothing():
    views = torch.randn(2, 6, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    torch.testing.assert_close(total(*views, 1.0), total(*(3 * views @ rotation), 1.0))


def test_the_scale_of_the_loss_does_not_depend_on_the_batch():
    """Where NT-Xent's grows with log B."""
    torch.manual_seed(0)
    losses = [float(total(*F.normalize(torch.randn(2, b, 256), dim=-1))) for b in (8, 64, 256)]
    assert max(losses) - min(losses) < 0.05


def test_the_projector_ends_in_batchnorm_with_weights():
    method = MIO(ToyEncoder(12), hidden=24, projection=8)
    last = method.net.projector[-1]
    assert isinstance(last, nn.BatchNorm1d) and last.affine
    assert sum(isinstance(m, nn.BatchNorm1d) for m in method.net.projector) == 2
