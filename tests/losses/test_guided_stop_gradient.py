"""Guided stop-gradient by hand (methods/README.md 3)."""

import math

import pytest
import torch
import torch.nn.functional as F

from speechssl.losses.guided_stop_gradient import derangement, guided, guided_loss
from speechssl.predictors.none import NoPredictor


def z_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_guided_loss_by_hand():
    one = torch.tensor([[[0.0, 1.0]], [[4.0, 1.0]]]).requires_grad_()
    two = torch.tensor([[[1.0, 1.0]], [[9.0, 1.0]]]).requires_grad_()
    loss = guided_loss(one, two, one.detach(), two.detach(), NoPredictor(2))
    assert float(loss) == pytest.approx(-0.511702, abs=1e-6)
    want = -0.5 * (1 / math.sqrt(17) + 10 / (math.sqrt(2) * math.sqrt(82)))
    assert float(loss) == pytest.approx(want, abs=1e-6)
    loss.backward()
    assert one.grad[0, 0].tolist() == pytest.approx([-0.485071, 0], abs=1e-6)
    assert two.grad[0, 0].tolist() == pytest.approx([-0.156174, 0.156174], abs=1e-6)
    assert one.grad[1].abs().sum() == 0 and two.grad[1].abs().sum() == 0


def test_the_choice_is_not_moved_by_a_common_shift():
    one = z_of(2, 7, 3)
    two = z_of(2, 7, 3, seed=1)
    head = NoPredictor(3)
    candidates = []
    for a in range(2):
        for b in range(2):
            first = F.cosine_similarity(one[a], one[1 - a], dim=-1)
            second = F.cosine_similarity(two[b], two[1 - b], dim=-1)
            candidates.append(-(first + second) / 2)
    plain = guided_loss(one, two, one, two, head)
    assert float(plain) >= float(torch.stack(candidates).min(0).values.mean()) - 1e-6
    shifted = guided_loss(one, two, one + 10, two + 10, head)
    distances = []
    for a in range(2):
        distances += [((one[a] - two[b]) ** 2).sum(-1) for b in range(2)]
    nearest = torch.stack(distances).argmin(0)
    a = nearest // 2
    b = nearest % 2
    rows = torch.arange(7)
    first = F.cosine_similarity(one[a, rows], one[1 - a, rows] + 10, dim=-1)
    second = F.cosine_similarity(two[b, rows], two[1 - b, rows] + 10, dim=-1)
    assert float(shifted) == pytest.approx(-float((first + second).mean()) / 2, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 8, 33])
def test_nobody_is_paired_with_itself(count):
    for _ in range(20):
        order = derangement(count, torch.device("cpu"))
        assert sorted(order.tolist()) == list(range(count))
        assert (order != torch.arange(count)).all()


def test_two_views_serve_in_both_roles():
    z = z_of(2, 6, 3)
    torch.manual_seed(0)
    got = guided(z, z, NoPredictor(3), 2)
    torch.manual_seed(0)
    other = derangement(6, z.device)
    assert float(got) == float(guided_loss(z, z[:, other], z, z[:, other], NoPredictor(3)))
