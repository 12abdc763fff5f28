"""SimCLR: views of one utterance attract, those of the other utterances in the batch repel.

NT-Xent of Chen et al. 2020 (ICML); methods/README.md 6.1. For an anchor i with a
positive j, over cosines c of projections,

    l(i, j) = -log  exp(c_ij / tau)
                    / (exp(c_ij / tau) + sum over other utterances k of exp(c_ik / tau)).

With two views this is the paper's loss over 2B samples. With more (crops of several
lengths) every pair of views of an utterance is a positive in turn, and the other
positives are left out of its denominator. Defaults: temperature 0.1 and a two-layer
projector without BatchNorm; the paper has BatchNorm in it. The embedding is the
encoder's, before the projector. Negatives are gathered from all processes. Other
utterances of an utterance's own group (`Views.groups`) are no negatives of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_with_gradient, rank
from speechssl.interfaces import Encoder, Method, Output, Progress, Views
from speechssl.nn.encoding import encode
from speechssl.nn.groups import joined_groups, same_group
from speechssl.nn.mlp import mlp
from speechssl.nn.precision import in_float32


def nt_xent(
    views: Tensor,
    temperature: float,
    all_views: Tensor | None = None,
    first: int = 0,
    groups: Tensor | None = None,
) -> Tensor:
    """Return the mean of l(i, j) over all anchors and positives.

    Args:
        views: (V, B, D) projections, V of at least 2; normalised here.
        temperature: tau, on cosines.
        all_views: (V, N, D) of all processes, of which ``views`` are the utterances
            from ``first`` on; none: ``views`` are all there are.
        first: number of the first utterance of ``views`` in ``all_views``.
        groups: (N,) int64 of ``all_views``, or None; two utterances of one group are no
            negatives of each other (-1: of no group).
    """
    if all_views is None:
        all_views = views
    num_views, batch_size = views.shape[:2]
    total = all_views.shape[1]
    anchors = F.normalize(views.float(), dim=-1).flatten(0, 1)
    others = F.normalize(all_views.float(), dim=-1).flatten(0, 1)
    similarity = anchors @ others.T / temperature  # (V B, V N)

    device = views.device
    view_numbers = torch.arange(num_views, device=device)
    anchor_view = view_numbers.repeat_interleave(batch_size)
    other_view = view_numbers.repeat_interleave(total)
    anchor_utterance = torch.arange(batch_size, device=device).repeat(num_views) + first
    other_utterance = torch.arange(total, device=device).repeat(num_views)
    same_view = anchor_view[:, None] == other_view
    same_utterance = anchor_utterance[:, None] == other_utterance

    is_no_negative = same_utterance
    if groups is not None:
        own = groups[first : first + batch_size].repeat(num_views)
        is_no_negative = same_utterance | same_group(own, groups.repeat(num_views))
    # Not minus infinity: an anchor without negatives would have a gradient of NaN.
    least = torch.finfo(similarity.dtype).min
    negatives = similarity.masked_fill(is_no_negative, least).logsumexp(1, keepdim=True)
    terms = F.softplus(negatives - similarity) * (same_utterance & ~same_view)
    return terms.sum() / (num_views * (num_views - 1) * batch_size)


class SimCLR(Method):
    """Encoder and projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers; hidden 0 leaves the
            projector out, so that the cosines trained are the cosines scored.
        temperature: tau, which divides the cosines.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.net = encoder
        self.projector: nn.Module = nn.Identity()
        if hidden:
            self.projector = mlp([encoder.embedding_dim, hidden, projection], batchnorm=False)
        self.temperature = temperature

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained."""
        return self.net

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss over all views of all groups."""
        embeddings = torch.cat([encode(self.net, group) for group in views])
        projections = self.projector(embeddings)
        with in_float32(projections):
            gathered = gather_with_gradient(projections.float())
            first = rank() * projections.shape[1]
            groups = joined_groups(views[0])
            loss = nt_xent(projections, self.temperature, gathered, first, groups)
        long = len(views[0].features)
        return Output(loss, {}, embeddings[:long].flatten(0, 1).detach(), projections)


PART = SimCLR
