"""Two or more views through one encoder and projector: what losses over pairs of views share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechssl.distributed import gather_with_gradient
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, Output, Progress, Views
from speechssl.nn.encoding import encode
from speechssl.nn.frames import accumulation_dtype
from speechssl.nn.groups import joined_groups
from speechssl.nn.precision import in_float32

__all__ = [
    "Network",
    "PairMethod",
    "Projected",
    "TeacherMethod",
    "check_views",
    "ordered_pairs",
    "project",
    "unordered_pairs",
]


class Projected(NamedTuple):
    """The views of a batch after encoder and projector, the long ones first.

    Attributes:
        embeddings: (V, B, D).
        z: (V, B, P) projections, float32 (float64 for float64).
        long: how many of the V views are long (those of the first group of the crop
            plan).
    """

    embeddings: Tensor
    z: Tensor
    long: int


class Network(nn.Module):
    """An encoder and its projector as one module, so that a teacher is a copy of one thing.

    Args:
        encoder: features to embeddings (N, D).
        projector: embeddings to projections (N, P).
    """

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector


def project(
    net: Network, views: Sequence[Views], long_only: bool = False, *, at_once: bool = False
) -> Projected:
    """Encode each group, and project view by view, or all views at once.

    BatchNorm in the encoder sees all views of a group or one at a time (`encode`).

    Args:
        net: encoder and projector.
        views: the groups of the crop plan, the long views first.
        long_only: leave the other groups out.
        at_once: BatchNorm in the projector sees all views together, those of all groups,
            and not one view at a time.

    Raises:
        UserError: the crop plan has fewer than two views.
    """
    check_views(views)
    long = len(views[0].features)
    groups = views[:1] if long_only else views
    embeddings = torch.cat([encode(net.encoder, group) for group in groups])
    if at_once:
        rows: Tensor = net.projector(embeddings.flatten(0, 1))
        projections = rows.view(*embeddings.shape[:2], -1)
    else:
        projections = torch.stack([net.projector(view) for view in embeddings])
    z = projections.to(accumulation_dtype(projections.dtype))
    return Projected(embeddings, z, long)


def check_views(views: Sequence[Views]) -> None:
    """Raise UserError unless there are at least two views of an utterance to compare."""
    if sum(len(group.features) for group in views) < 2:
        raise UserError(
            "method: data.crops has one view an utterance, and nothing to compare it with; give"
            " {count: 2, seconds: 2.0}"
        )


def ordered_pairs(long: int, count: int) -> list[tuple[int, int]]:
    """Return (target, online) views: every long view is a target of every other view.

    Args:
        long: how many views are long; these come first.
        count: V, all views.
    """
    pairs = []
    for target in range(long):
        pairs += [(target, online) for online in range(count) if online != target]
    return pairs


def unordered_pairs(long: int, count: int) -> list[tuple[int, int]]:
    """Return each pair of views of which at least one is long, once.

    Args:
        long: how many views are long; these come first.
        count: V, all views.
    """
    return [(u, v) for u in range(long) for v in range(u + 1, count)]


class TeacherMethod(Method):
    """A method whose targets come from `teacher`, a moving average of the trained `net`.

    A subclass sets both in its constructor and moves the teacher in `after_step`.
    """

    net: Network
    teacher: Network

    @property
    def encoder(self) -> Encoder:
        """The teacher's encoder."""
        return self.teacher.encoder

    def networks(self) -> dict[str, Encoder]:
        """Return the encoders of the trained network and of its moving average."""
        return {"student": self.net.encoder, "teacher": self.teacher.encoder}


class PairMethod(Method):
    """A method whose loss is the mean, over pairs of views, of a function of two projections.

    A subclass implements `pair`. Gradient flows into both projections. They are
    gathered from all processes, so statistics over the batch are those of the joined
    batch.
    """

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.net = Network(encoder, projector)

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained."""
        return self.net.encoder

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of two views, and its terms for the log.

        Args:
            one: (N, P) projections of one view, of all processes.
            two: (N, P) projections of the other view.
            progress: where training stands.
        """
        raise NotImplementedError

    def grouped_pair(
        self, one: Tensor, two: Tensor, groups: Tensor | None, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `pair` does; a loss with negatives leaves out those of one group.

        Args:
            one: (N, P) projections of one view, of all processes.
            two: (N, P) projections of the other view.
            groups: (N,) int64, the group of each utterance, -1 for none; None: there are
                none.
            progress: where training stands.
        """
        return self.pair(one, two, progress)

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the mean of `grouped_pair` over all pairs with a long view."""
        embeddings, z, long = project(self.net, views)
        losses = []
        logged: dict[str, list[Tensor]] = {}
        with in_float32(z):
            gathered = gather_with_gradient(z)
            groups = joined_groups(views[0])
            for u, v in unordered_pairs(long, len(z)):
                loss, terms = self.grouped_pair(gathered[u], gathered[v], groups, progress)
                losses.append(loss)
                for name, term in terms.items():
                    logged.setdefault(name, []).append(term)
            mean_loss = torch.stack(losses).mean()
            scalars = {name: torch.stack(terms).mean().detach() for name, terms in logged.items()}
        return Output(mean_loss, scalars, embeddings[:long].flatten(0, 1).detach(), z)
