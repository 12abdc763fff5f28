"""Guided stop-gradient for BYOL and SimSiam (Lee and Lee, NeurIPS 2023).

methods/README.md 3.

Two utterances are paired. Of the four distances between a projection of one and a
projection of the other, the smallest names the two *sources*, whose predictions get the
gradient; their partners are the targets:

    L = -1/2 [cos(h(z1a), sg z1a') + cos(h(z2b), sg z2b')],   (a, b) = argmin |z1a - z2b|.

So what lies near another utterance is pulled away towards its own far partner, and no
predictor is needed to keep the centre from running away; the rank stays low without
one, though. Distances are of un-normalised projections. Each utterance is item 1 of one
pair and item 2 of another, from a derangement of the batch (the released program allows
an utterance to meet itself). The released scheme has four views, two for each role;
with two views the same ones serve in both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.interfaces import Predictor

__all__ = ["derangement", "guided", "guided_loss"]


def guided_loss(
    one: Tensor,
    two: Tensor,
    one_targets: Tensor,
    two_targets: Tensor,
    predictor: Predictor,
) -> Tensor:
    """Return minus the mean cosine of N pairs of utterances, in [-1, 1].

    Args:
        one: (2, N, P) projections of both views of item 1, with gradient.
        two: (2, N, P) of item 2.
        one_targets: (2, N, P) of item 1 by the target network (for SimSiam the same
            network), detached. Distances are taken between the targets of both items.
        two_targets: (2, N, P) of item 2.
        predictor: h.
    """
    a, b = _nearest_views(one_targets, two_targets)
    cosine_one = _cosine_of_sources(one, one_targets, a, predictor)
    cosine_two = _cosine_of_sources(two, two_targets, b, predictor)
    return -(cosine_one + cosine_two).mean() / 2


def _cosine_of_sources(
    views: Tensor, targets: Tensor, sources: Tensor, predictor: Predictor
) -> Tensor:
    """Return the cosine (N,) of the sources' predictions and their partners.

    Both views pass the predictor whole, and the sources are chosen afterwards: a
    BatchNorm in the predictor sees one view at a time, as in the released program.

    Args:
        views: (2, N, P) projections, with gradient.
        targets: (2, N, P), detached.
        sources: (N,) which of the two views is the source.
        predictor: h.
    """
    predictions = torch.stack([predictor(view) for view in views])
    rows = torch.arange(views.shape[1], device=views.device)
    return predictor.cosine(
        views[sources, rows], predictions[sources, rows], targets[1 - sources, rows]
    )


@torch.no_grad()
def _nearest_views(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Return which views (N,) of item 1 and of item 2 are nearest to each other.

    Args:
        one: (2, N, P) views of item 1.
        two: (2, N, P) views of item 2.
    """
    distances = []
    for view_one in one:
        for view_two in two:
            distances.append((view_one - view_two).square().sum(-1))
    nearest = torch.stack(distances).argmin(0)
    return nearest // 2, nearest % 2


def derangement(count: int, device: torch.device) -> Tensor:
    """Draw a permutation (count,) without a fixed point: a random cycle through all."""
    order = torch.randperm(count).to(device)
    return torch.empty_like(order).index_copy_(0, order, order.roll(1))


def guided(z: Tensor, targets: Tensor, predictor: Predictor, views: int) -> Tensor:
    """Return the loss of a batch, whose utterances are paired at random.

    Args:
        z: (V, B, P) online projections, with gradient.
        targets: (V, B, P) target projections, detached.
        predictor: h.
        views: 4, of which two are item 1's and two item 2's, or 2, which are both
            items'.

    Raises:
        UserError: there are fewer long views than that.
    """
    if len(targets) < views:
        raise UserError(
            f"method.gsg={views} needs {views} long views, and the first group of data.crops has"
            f" {len(targets)}; give count: {views}"
        )
    partner = derangement(z.shape[1], z.device)
    of_one = slice(0, 2)
    of_two = slice(views - 2, views)
    return guided_loss(
        z[of_one],
        z[of_two][:, partner],
        targets[of_one],
        targets[of_two][:, partner],
        predictor,
    )
