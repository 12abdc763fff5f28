"""Two or more views through one encoder and projector: what pair losses share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from speechssl.distributed import gather_with_gradient
from speechssl.errors import UserError
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.nn.views import encode, in_float32


class Projected(NamedTuple):
    """Embeddings (V, B, D), projections (V, B, P) in float32, and how many of the V views, the
    first ones, are long (those of the first group of the crop plan).
    """

    embeddings: Tensor
    z: Tensor
    long: int


def network(encoder: nn.Module, projector: nn.Module) -> nn.ModuleDict:
    """An encoder and its projector as one module, so that a teacher is a copy of one thing."""
    return nn.ModuleDict({"encoder": encoder, "projector": projector})


def width(encoder: nn.Module) -> int:
    """D of an encoder."""
    return cast(int, encoder.embedding_dim)


def project(net: nn.ModuleDict, views: Sequence[Views], long_only: bool = False) -> Projected:
    """Encode each group in one batch and project view by view (BatchNorm sees one view at a time).

    Raises:
        UserError: the crop plan has fewer than two views, or none of its first group's is long.
    """
    check_views(views)
    long = len(views[0].features)
    seen = views[:1] if long_only else views
    embeddings = torch.cat([encode(net["encoder"], group) for group in seen])
    z = torch.stack([net["projector"](view).float() for view in embeddings])
    return Projected(embeddings, z, long)


def check_views(views: Sequence[Views]) -> None:
    """Raise UserError unless there are two views of an utterance to compare."""
    if sum(len(group.features) for group in views) < 2:
        raise UserError(
            "method: data.crops has one view an utterance, and nothing to compare it with; give"
            " {count: 2, seconds: 2.0}"
        )


def ordered_pairs(long: int, count: int) -> list[tuple[int, int]]:
    """(target, online) views: every long view is a target of every other view."""
    return [(u, v) for u in range(long) for v in range(count) if u != v]


def unordered_pairs(long: int, count: int) -> list[tuple[int, int]]:
    """Pairs of which at least one is long, each once."""
    return [(u, v) for u in range(long) for v in range(u + 1, count)]


class PairMethod(Method):
    """A method whose loss is a mean over pairs of views, of a function of two (N, P) projections.

    Gradient flows into both. Projections are gathered from all processes, so statistics over the
    batch are those of the joined batch.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.net = network(encoder, projector)

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is trained."""
        return self.net["encoder"]

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of two views (N, P), and its terms, detached."""
        raise NotImplementedError

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The mean over pairs of views."""
        embeddings, z, long = project(self.net, views)
        with in_float32(z):
            gathered = gather_with_gradient(z)
            terms = [
                self.pair(gathered[u], gathered[v], progress)
                for u, v in unordered_pairs(long, len(z))
            ]
            loss = torch.stack([term for term, _ in terms]).mean()
            scalars = {
                key: torch.stack([named[key] for _, named in terms]).mean().detach()
                for key in terms[0][1]
            }
        return Output(loss, scalars, embeddings[:long].flatten(0, 1).detach(), z)
