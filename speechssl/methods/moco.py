"""MoCo v2: tell an utterance's other view from a queue of earlier keys.

He et al. 2020 (CVPR), Chen et al. 2020. Keys come from a moving-average encoder without
gradient; with q and k of unit length,

    L = -log exp(q.k / tau) / (exp(q.k / tau) + sum_j w_j exp(q.k_j / tau))   (methods/README.md 6.2)

over the K keys of the queue as it was before this batch. All w_j are 1 unless a filter
is given (C3-DINO). The published K is 65,536 with momentum 0.999 and tau 0.07 to 0.2;
the defaults here suit small batches. Every long view is a key of every other view, and
the keys of all long views are queued. Keys of an utterance's own group (`Views.groups`)
are no negatives of it.

`queue_size: 1, initial_queue: empty` in batches of one is online pairwise learning
(Yang et al. 2021): the only negative of an utterance is the one before it, and

    L = softplus((q.k_previous - q.k) / tau)          (methods/README.md 14.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Encoder, Output, Progress, Views
from speechssl.nn.groups import joined_groups, same_group
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.precision import in_float32
from speechssl.nn.siamese import Network, TeacherMethod, ordered_pairs, project


def moco_loss(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return the mean of the loss above over N queries.

    Args:
        query: (N, P) of unit length.
        key: (N, P) of unit length, without gradient.
        queue: (K, P) of unit length.
        temperature: tau, which divides the cosines.
        weights: (N, K) of the queue's terms, at least 0; none = all 1.
    """
    positive = (query * key).sum(-1) / temperature
    negatives = query @ queue.T / temperature
    if weights is not None:
        # Not minus infinity for a weight of 0: where all weights of a query are 0, the gradient of
        # logsumexp would be NaN.
        least = torch.finfo(negatives.dtype).min
        negatives = negatives + weights.log().clamp(min=least)
    return F.softplus(negatives.logsumexp(1) - positive).mean()


NO_GROUP = -1
"""In ``queue_groups``: a key of an utterance without a group."""

EMPTY = -2
"""In ``queue_groups``: a row that no key has been written to."""


class MoCo(TeacherMethod):
    """Encoder and projector, their moving averages, and the queue.

    Args:
        encoder: the student's; the teacher, which makes the keys, is a copy of it.
        hidden, projection: sizes of the projector's layers.
        queue_size: K, keys that are remembered.
        temperature: tau, which divides the cosines.
        teacher_momentum: of the moving average, constant.
        initial_queue: ``random``: unit vectors, as released; ``empty``: rows count once a
            key has been written to them.
    """

    RENAMED: ClassVar[dict[str, str]] = {"queue": "queue_size"}
    min_batch = 1

    queue: Tensor
    """(K, P) keys of unit length, a ring."""

    queue_groups: Tensor
    """(K,) int64, the group of each key, ``NO_GROUP`` or ``EMPTY``."""

    place: Tensor
    """Row of the queue that the next key is written to."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        queue_size: int = 1024,
        temperature: float = 0.1,
        teacher_momentum: float = 0.99,
        initial_queue: Literal["random", "empty"] = "random",
    ) -> None:
        super().__init__()
        sizes = [encoder.embedding_dim, hidden, projection]
        self.net = Network(encoder, mlp(sizes, batchnorm=False))
        self.teacher = teacher_of(self.net)
        self.temperature = temperature
        self.teacher_momentum = teacher_momentum
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, projection), dim=1))
        state = EMPTY if initial_queue == "empty" else NO_GROUP
        self.has_empty_rows = initial_queue == "empty"
        self.register_buffer("queue_groups", torch.full((queue_size,), state))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_add_queue_groups)  # type: ignore[no-untyped-call]

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch, whose keys then join the queue."""
        online = project(self.net, views)
        with torch.no_grad():
            target = project(self.teacher, views, long_only=True)
        with in_float32(online.z):
            queries = F.normalize(online.z, dim=-1)
            keys = F.normalize(target.z, dim=-1)
            queue = self.queue.clone()  # it changes before backward
            kept = self._kept(views[0].groups, len(queries[0]))
            terms = []
            for u, v in ordered_pairs(len(keys), len(queries)):
                terms.append(self.contrast(queries[v], keys[u], queue, kept))
            loss = torch.stack(terms).mean()
            if self.training:
                self._enqueue(gather_without_gradient(keys), joined_groups(views[0]))
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def contrast(
        self, query: Tensor, key: Tensor, queue: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one pair of views (N, P) against the queue.

        Args:
            query: (N, P) of one view.
            key: (N, P) of the other view.
            queue: (K, P).
            kept: (N, K), 1 where a key is a negative of a query and 0 elsewhere; None:
                all are.
        """
        return moco_loss(query, key, queue, self.temperature, kept)

    def _kept(self, groups: Tensor | None, count: int) -> Tensor | None:
        """Return which keys of the queue are negatives, (N, K) float32; None: all are.

        Args:
            groups: (N,) of the queries' utterances, or None.
            count: N.
        """
        if groups is None and not self.has_empty_rows:
            return None
        dropped = (self.queue_groups == EMPTY).expand(count, -1)
        if groups is not None:
            dropped = dropped | same_group(groups, self.queue_groups)
        return (~dropped).float()

    def _enqueue(self, keys: Tensor, groups: Tensor | None) -> None:
        """Write keys (U, N, P) of utterances of the groups (N,) over the oldest."""
        size = len(self.queue)
        views, utterances = keys.shape[:2]
        keys = keys.flatten(0, 1)
        if groups is None:
            groups = torch.full((utterances,), NO_GROUP, device=keys.device)
        groups = groups.repeat(views)
        rows = self.place + torch.arange(len(keys), device=keys.device)
        newest = rows[-size:] % size
        self.queue[newest] = keys[-size:]
        self.queue_groups[newest] = groups[-size:]
        self.place.copy_((self.place + len(keys)) % size)

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        ema_update(self.teacher, self.net, self.teacher_momentum)


def _add_queue_groups(method: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give a state from before there were groups the ones that its queue had: none."""
    if f"{prefix}queue" in state:
        none = torch.full((len(state[f"{prefix}queue"]),), NO_GROUP)
        state.setdefault(f"{prefix}queue_groups", none)


PART = MoCo
