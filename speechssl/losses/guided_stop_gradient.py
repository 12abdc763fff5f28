"""Guided stop-gradient (Lee and Lee, NeurIPS 2023; methods/README.md 3), for BYOL and SimSiam.

Two utterances are paired. Of the four distances between a projection of one and a projection of the
other, the smallest names the two *sources*, which go through the predictor and get the gradient;
their partners are the targets:

    L = -1/2 [cos(h(z1a), sg z1a') + cos(h(z2b), sg z2b')],   (a, b) = argmin |z1a - z2b|.

So what lies near another utterance is pulled away towards its own far partner, and no predictor is
needed to keep the centre from running away; the rank stays low without one, though. Distances are
of un-normalised projections. Each utterance is item 1 of one pair and item 2 of another, from a
derangement of the batch (the released program allows an utterance to meet itself). The released
scheme has four views, two for each role; with two views the same ones serve in both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.interfaces import Predictor


def guided_loss(
    one: Tensor,
    two: Tensor,
    one_targets: Tensor,
    two_targets: Tensor,
    predictor: Predictor,
) -> Tensor:
    """Minus the mean cosine, in [-1, 1].

    Args:
        one, two: (2, N, P) projections of both views of item 1 and item 2, with gradient.
        one_targets, two_targets: (2, N, P) of the target network (for SimSiam the same), detached;
            the distances are taken between these.
        predictor: h.
    """
    with torch.no_grad():
        distance = torch.stack(
            [(one_targets[a] - two_targets[b]).square().sum(-1) for a in range(2) for b in range(2)]
        )
        nearest = distance.argmin(0)
        a, b = nearest // 2, nearest % 2
    rows = torch.arange(one.shape[1], device=one.device)
    z1, z2 = one[a, rows], two[b, rows]
    p1, p2 = predictor(z1), predictor(z2)
    first = predictor.cosine(z1, p1, one_targets[1 - a, rows])
    second = predictor.cosine(z2, p2, two_targets[1 - b, rows])
    return -(first + second).mean() / 2


def derangement(count: int, device: torch.device) -> Tensor:
    """A random permutation (count,) without a fixed point: a random cycle through all."""
    order = torch.randperm(count).to(device)
    return torch.empty_like(order).index_copy_(0, order, order.roll(1))


def guided(z: Tensor, targets: Tensor, predictor: Predictor, views: int) -> Tensor:
    """The loss of a batch.

    Args:
        z, targets: (V, B, P) online projections with gradient, and target projections, detached.
        views: 4, of which two serve item 1 and two item 2, or 2.

    Raises:
        UserError: there are fewer long views than that.
    """
    if len(targets) < views:
        raise UserError(
            f"method.gsg={views} needs {views} long views, and the first group of data.crops has"
            f" {len(targets)}; give count: {views}"
        )
    other = derangement(z.shape[1], z.device)
    second = slice(views - 2, views)
    return guided_loss(
        z[:2], z[second][:, other], targets[:2], targets[second][:, other], predictor
    )
