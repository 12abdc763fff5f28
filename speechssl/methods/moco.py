"""MoCo v2: tell an utterance's other view from a queue of earlier keys (He et al. 2020, Chen et al.
    2020).

Keys come from a moving-average encoder without gradient; with q and k of unit length,

    L = -log exp(q.k / tau) / (exp(q.k / tau) + sum_j w_j exp(q.k_j / tau))           (methods/README.md 6)

over the K keys of the queue as it was before this batch. All w_j are 1 unless a filter is given
(C3). The published K is 65,536 with momentum 0.999 and tau 0.07 to 0.2; defaults here suit small
batches. The keys of all long views are queued. Every long view is a key of every other view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.siamese import network, ordered_pairs, project, width
from speechssl.nn.views import in_float32


def moco_loss(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Mean over N of the loss above.

    Args:
        query, key: (N, P) of unit length, the key without gradient.
        queue: (K, P) of unit length.
        weights: (N, K) of the queue's terms, at least 0; none = all 1.
    """
    positive = (query * key).sum(-1) / temperature
    negatives = query @ queue.T / temperature
    if weights is not None:
        negatives = negatives + weights.log()
    return F.softplus(negatives.logsumexp(1) - positive).mean()


class MoCo(Method):
    """Encoder and projector, their moving averages, and the queue.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        queue: K.
        temperature: tau.
        teacher_momentum: of the moving average, constant.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        queue: int = 1024,
        temperature: float = 0.1,
        teacher_momentum: float = 0.99,
    ) -> None:
        super().__init__()
        self.net = network(encoder, mlp([width(encoder), hidden, projection], batchnorm=False))
        self.teacher = teacher_of(self.net)
        self.temperature, self.momentum = temperature, teacher_momentum
        self.queue: Tensor
        self.place: Tensor
        self.register_buffer("queue", F.normalize(torch.randn(queue, projection), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @property
    def encoder(self) -> nn.Module:
        """The moving average."""
        return self.teacher["encoder"]

    def networks(self) -> dict[str, nn.Module]:
        """Return the encoders of the trained network and of its moving average."""
        return {"student": self.net["encoder"], "teacher": self.teacher["encoder"]}

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss on one batch, whose keys then join the queue."""
        online = project(self.net, views)
        with torch.no_grad():
            target = project(self.teacher, views, long_only=True)
        with in_float32(online.z):
            q, k = F.normalize(online.z, dim=-1), F.normalize(target.z, dim=-1)
            queue = self.queue.clone()  # it changes before backward
            terms = [self.contrast(q[v], k[u], queue) for u, v in ordered_pairs(len(k), len(q))]
            loss = torch.stack(terms).mean()
            if self.training:
                self._enqueue(gather_without_gradient(k).flatten(0, 1))
        return Output(loss, {}, target.embeddings.flatten(0, 1).detach(), online.z)

    def contrast(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """The loss of one pair of views against the queue."""
        return moco_loss(query, key, queue, self.temperature)

    def _enqueue(self, keys: Tensor) -> None:
        """Write keys (N, P) over the oldest."""
        size = len(self.queue)
        rows = (self.place + torch.arange(len(keys), device=keys.device))[-size:] % size
        self.queue[rows] = keys[-size:]
        self.place.copy_((self.place + len(keys)) % size)

    def after_step(self, progress: Progress) -> None:
        """Move the key network towards the trained one."""
        ema_update(self.teacher, self.net, self.momentum)


PART = MoCo
