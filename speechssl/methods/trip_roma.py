"""Trip-ROMA: a triplet loss over the batch, on randomly mapped projections (Li et al. 2023, TMLR).

Projections of two views are mapped by a random matrix R (not trained, redrawn every so many epochs)
and normalised. For each anchor, with p its cosine to its positive and n_j those to the 2N - 2
others,

    L = mean over active terms of relu(margin + n_j - p)  +  weight * mean of softplus((n_j - p) /
    tau)

(methods/README.md 6; margin 1, weight 8, tau 0.5). A term is active where the hinge is above 0. Where none
is, the release divides 0 by 0; ours is 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.interfaces import Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, width


def triplet_terms(
    one: Tensor, two: Tensor, margin: float = 1.0, temperature: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Hinge (mean over active terms) and softplus (mean over all) of two views (N, P)."""
    count = len(one)
    z = F.normalize(torch.cat([one, two]), dim=-1)
    cosines = z @ z.T
    who = torch.arange(count, device=z.device).repeat(2)
    same = who[:, None] == who
    positive = (z * z.roll(count, 0)).sum(-1)
    gaps = (cosines - positive[:, None])[~same]
    hinge = F.relu(margin + gaps)
    active = (hinge > 0).sum()
    return hinge.sum() / active.clamp(min=1), F.softplus(gaps / temperature).mean()


class TripRoma(PairMethod):
    """Encoder, projector and the random map.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        random: outputs of the random map, 0 = no map.
        redraw: epochs between its redrawings.
        margin, temperature, weight: see above.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 256,
        random: int = 256,
        redraw: float = 10.0,
        margin: float = 1.0,
        temperature: float = 0.5,
        weight: float = 8.0,
    ) -> None:
        super().__init__(encoder, mlp([width(encoder), hidden, projection]))
        self.redraw, self.margin, self.temperature, self.weight = (
            redraw,
            margin,
            temperature,
            weight,
        )
        self.map: Tensor
        self.drawn: Tensor
        self.register_buffer(
            "map", torch.randn(projection, random) if random else torch.zeros(0, 0)
        )
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Both terms, through the random map."""
        if self.map.numel():
            self._redraw(int(progress.epoch / self.redraw))
            one, two = one @ self.map, two @ self.map
        hinge, soft = triplet_terms(one, two, self.margin, self.temperature)
        return hinge + self.weight * soft, {"hinge": hinge, "softplus": soft}

    def _redraw(self, period: int) -> None:
        """A map of this period's own, alike in every process and after a resume."""
        if self.training and period != int(self.drawn):
            generator = torch.Generator().manual_seed(period)
            self.map.copy_(torch.randn(self.map.shape, generator=generator))
            self.drawn.fill_(period)


PART = TripRoma
