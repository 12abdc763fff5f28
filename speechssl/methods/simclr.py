"""SimCLR: views of one utterance attract, those of the other utterances in the batch repel.

NT-Xent.

Chen et al. 2020 (ICML); methods/README.md 6. For an anchor i with a positive j, over cosines c of
projections,

    l(i, j) = -log  exp(c_ij / tau) / (exp(c_ij / tau) + sum over other utterances k of exp(c_ik /
    tau)).

With two views this is the paper's loss over 2B samples. With more (crops of several lengths) every
pair of views of an utterance is a positive in turn, and the other positives are left out of its
denominator. Defaults: temperature 0.1 and a two-layer projector without BatchNorm; the paper has
BatchNorm in it. The embedding is the encoder's, before the projector. Negatives are gathered from
all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_with_gradient, rank
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.nn.mlp import mlp
from speechssl.nn.views import encode, in_float32


def nt_xent(
    views: Tensor, temperature: float, all_views: Tensor | None = None, first: int = 0
) -> Tensor:
    """Mean of l(i, j) over all anchors and positives.

    Args:
        views: (V, B, D) projections, V of at least 2; normalised here.
        temperature: tau, on cosines.
        all_views: (V, N, D) of all processes, of which ``views`` are the utterances from ``first``
            on.
    """
    everything = views if all_views is None else all_views
    count, batch = views.shape[:2]
    anchors = F.normalize(views.float(), dim=-1).flatten(0, 1)
    others = F.normalize(everything.float(), dim=-1).flatten(0, 1)
    similarity = anchors @ others.T / temperature
    who = torch.arange(batch, device=views.device).repeat(count) + first
    whose = torch.arange(everything.shape[1], device=views.device).repeat(count)
    which = torch.arange(count, device=views.device)
    same_view = which.repeat_interleave(batch)[:, None] == which.repeat_interleave(
        everything.shape[1]
    )
    same = who[:, None] == whose
    negatives = similarity.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    return F.softplus(negatives - similarity)[same & ~same_view].mean()


class SimCLR(Method):
    """Encoder and projector.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers; hidden 0 leaves the projector out, so
            that the cosines trained are the cosines scored.
        temperature: tau.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.net = encoder
        sizes = [cast(int, encoder.embedding_dim), hidden, projection]
        self.projector = mlp(sizes, batchnorm=False) if hidden else nn.Identity()
        self.temperature = temperature

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is trained."""
        return self.net

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss over all views of all groups."""
        embeddings = torch.cat([encode(self.net, group) for group in views])
        projections = self.projector(embeddings)
        with in_float32(projections):
            gathered = gather_with_gradient(projections.float())
            loss = nt_xent(projections, self.temperature, gathered, rank() * projections.shape[1])
        return Output(
            loss, {}, embeddings[: len(views[0].features)].flatten(0, 1).detach(), projections
        )


PART = SimCLR
