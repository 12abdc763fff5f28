"""Trip-ROMA: a triplet loss over the batch, on randomly mapped projections (Li et al. 2023, TMLR).

Projections of two views are mapped by a random matrix R (not trained, redrawn every so
many epochs) and normalised. For each anchor, with p its cosine to its positive and n_j
those to the 2N - 2 others,

    L = mean over active terms of relu(margin + n_j - p)
        + weight * mean of softplus((n_j - p) / tau)

(methods/README.md 6.4; margin 1, weight 8, tau 0.5). A term is active where the hinge
is above 0. Where none is, the release divides 0 by 0; here the term is 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Encoder, Progress
from speechssl.nn.groups import same_group
from speechssl.nn.host_number import host_number
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


def triplet_terms(
    one: Tensor,
    two: Tensor,
    margin: float = 1.0,
    temperature: float = 0.5,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return hinge (mean over active terms) and softplus (mean over all).

    Args:
        one: (N, P) projections of one view; normalised here.
        two: (N, P) of the other view.
        margin: of the hinge.
        temperature: tau of the softplus.
        groups: (N,) int64; utterances of an anchor's own group are none of its others
            (-1: of no group).
    """
    count = len(one)
    z = F.normalize(torch.cat([one, two]), dim=-1)
    cosines = z @ z.T
    utterance = torch.arange(count, device=z.device).repeat(2)
    same_utterance = utterance[:, None] == utterance
    positive = (z * z.roll(count, 0)).sum(-1)
    is_other = ~same_utterance
    if groups is not None:
        doubled = groups.repeat(2)
        is_other = is_other & ~same_group(doubled, doubled)
    gaps = cosines - positive[:, None]
    hinge = F.relu(margin + gaps) * is_other
    active = (hinge > 0).sum()
    softplus = (F.softplus(gaps / temperature) * is_other).sum() / is_other.sum().clamp(min=1)
    return hinge.sum() / active.clamp(min=1), softplus


class TripRoma(PairMethod):
    """Encoder, projector and the random map.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        random_dim: outputs of the random map, 0 = no map.
        redraw_every: epochs after which the map is drawn again.
        margin: by which the positive's cosine must exceed the others' in the hinge.
        temperature: tau, which divides the gaps between cosines in the softplus.
        weight: of the softplus, where the hinge has 1.
    """

    RENAMED: ClassVar[dict[str, str]] = {"random": "random_dim", "redraw": "redraw_every"}

    map: Tensor
    """(P, R) random matrix; empty: none."""

    drawn: Tensor
    """Period of ``redraw_every`` epochs that the map belongs to."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 256,
        random_dim: int = 256,
        redraw_every: float = 10.0,
        margin: float = 1.0,
        temperature: float = 0.5,
        weight: float = 8.0,
    ) -> None:
        super().__init__(encoder, mlp([encoder.embedding_dim, hidden, projection]))
        self.redraw_every = redraw_every
        self.margin = margin
        self.temperature = temperature
        self.weight = weight
        no_map = torch.zeros(0, 0)
        self.register_buffer("map", torch.randn(projection, random_dim) if random_dim else no_map)
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and both terms of two views (N, P), through the random map."""
        return self.grouped_pair(one, two, None, progress)

    def grouped_pair(
        self, one: Tensor, two: Tensor, groups: Tensor | None, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `pair`, without others of an anchor's own group (N,)."""
        if self.map.numel():
            self._redraw(int(progress.epoch / self.redraw_every))
            one = one @ self.map
            two = two @ self.map
        hinge, softplus = triplet_terms(one, two, self.margin, self.temperature, groups)
        return hinge + self.weight * softplus, {"hinge": hinge, "softplus": softplus}

    def _redraw(self, period: int) -> None:
        """Draw the map of this period; its seed is the period, for all processes and resumed runs."""
        if self.training and period != host_number(self.drawn):
            generator = torch.Generator().manual_seed(period)
            self.map.copy_(torch.randn(self.map.shape, generator=generator))
            self.drawn.fill_(period)


PART = TripRoma
