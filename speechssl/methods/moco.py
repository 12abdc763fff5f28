"""MoCo v2: tell an utterance's other view from a queue of earlier keys.

He et al. 2020 (CVPR), Chen et al. 2020. Keys come from a moving-average encoder without
gradient; with q and k of unit length,

    L = -log exp(q.k / tau) / (exp(q.k / tau) + sum_j w_j exp(q.k_j / tau))   (methods/README.md 6.2)

over the K keys of the queue as it was before this batch. All w_j are 1 unless a filter
is given (C3-DINO). The published K is 65,536 with momentum 0.999 and tau 0.07 to 0.2;
the defaults here suit small batches. Every long view is a key of every other view, and
the keys of all long views are queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Encoder, Method, Output, Progress, Views
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.siamese import Network, ordered_pairs, project
from speechssl.nn.views import in_float32


def moco_loss(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return the mean of the loss above over N queries.

    Args:
        query: (N, P) of unit length.
        key: (N, P) of unit length, without gradient.
        queue: (K, P) of unit length.
        temperature: tau.
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


class MoCo(Method):
    """Encoder and projector, their moving averages, and the queue.

    Args:
        encoder: the student's; the teacher, which makes the keys, is a copy of it.
        hidden, projection: sizes of the projector's layers.
        queue_size: K.
        temperature: tau.
        teacher_momentum: of the moving average, constant.
    """

    RENAMED: ClassVar[dict[str, str]] = {"queue": "queue_size"}

    queue: Tensor
    """(K, P) keys of unit length, a ring."""

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
    ) -> None:
        super().__init__()
        sizes = [encoder.embedding_dim, hidden, projection]
        self.net = Network(encoder, mlp(sizes, batchnorm=False))
        self.teacher = teacher_of(self.net)
        self.temperature = temperature
        self.teacher_momentum = teacher_momentum
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, projection), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @property
    def encoder(self) -> Encoder:
        """The teacher's encoder."""
        return self.teacher.encoder

    def networks(self) -> dict[str, Encoder]:
        """Return the encoders of the trained network and of its moving average."""
        return {"student": self.net.encoder, "teacher": self.teacher.encoder}

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch, whose keys then join the queue."""
        online = project(self.net, views)
        with torch.no_grad():
            target = project(self.teacher, views, long_only=True)
        with in_float32(online.z):
            queries = F.normalize(online.z, dim=-1)
            keys = F.normalize(target.z, dim=-1)
            queue = self.queue.clone()  # it changes before backward
            terms = []
            for u, v in ordered_pairs(len(keys), len(queries)):
                terms.append(self.contrast(queries[v], keys[u], queue))
            loss = torch.stack(terms).mean()
            if self.training:
                self._enqueue(gather_without_gradient(keys).flatten(0, 1))
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def contrast(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """Return the loss of one pair of views (N, P) against the queue (K, P)."""
        return moco_loss(query, key, queue, self.temperature)

    def _enqueue(self, keys: Tensor) -> None:
        """Write keys (N, P) over the oldest."""
        size = len(self.queue)
        rows = self.place + torch.arange(len(keys), device=keys.device)
        newest = rows[-size:] % size
        self.queue[newest] = keys[-size:]
        self.place.copy_((self.place + len(keys)) % size)

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        ema_update(self.teacher, self.net, self.teacher_momentum)


PART = MoCo
