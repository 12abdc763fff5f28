"""SwAV: views of an utterance predict each other's balanced assignment to prototypes (Caron et al.
    2020).

Scores are cosines of projections and K prototypes (unit length, restored before every step).
Sinkhorn's algorithm on scores / epsilon turns those of a long view into codes q whose columns are
used equally, and

    L = mean over long views of mean over the other views of CE(q, softmax(scores / tau))

methods/README.md 6.

epsilon 0.05, tau 0.1, 3 iterations. Where the batch is smaller than K, a queue of earlier
projections of each long view joins the assignment (``queue`` at least K), from ``queue_start`` of
the run on and once it is full. The prototypes do not move during the first ``freeze`` of the run.
The published K is 3,000.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.methods.dino import sinkhorn
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import network, ordered_pairs, project, width
from speechssl.nn.views import in_float32


class SwAV(Method):
    """Encoder, projector and prototypes.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        prototypes: K.
        temperature: tau.
        epsilon, iterations: of Sinkhorn.
        queue: projections kept of each long view, 0 = none.
        queue_start: share of the run after which the queue is filled.
        freeze: share of the run in which the prototypes stand still.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        prototypes: int = 128,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 0,
        queue_start: float = 0.15,
        freeze: float = 0.01,
    ) -> None:
        super().__init__()
        self.net = network(encoder, mlp([width(encoder), hidden, projection]))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, projection), dim=1))
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_start, self.freeze = queue_start, freeze
        self.queue: Tensor
        self.filled: Tensor
        self.register_buffer("queue", torch.zeros(2, queue, projection))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is trained."""
        return self.net["encoder"]

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss on one batch."""
        with torch.no_grad():
            self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        embeddings, z, long = project(self.net, views)
        with in_float32(z):
            z = F.normalize(z, dim=-1)
            scores = z @ self.prototypes.T
            codes = torch.stack([self._codes(scores[u].detach(), u) for u in range(long)])
            log_p = F.log_softmax(scores / self.temperature, dim=-1)
            terms = [-(codes[u] * log_p[v]).sum(-1).mean() for u, v in ordered_pairs(long, len(z))]
            loss = torch.stack(terms).mean()
        if self.training and self.queue.shape[1] and progress.fraction >= self.queue_start:
            self._enqueue(gather_without_gradient(z[:2]))
        used = (
            torch.zeros_like(codes[0, 0]).index_fill_(0, codes.flatten(0, 1).argmax(-1), 1.0).sum()
        )
        entropy = -(codes * codes.clamp_min(1e-30).log()).sum(-1).mean()
        scalars = {"used_prototypes": used, "code_entropy": entropy}
        return Output(loss, scalars, embeddings[:long].flatten(0, 1).detach(), z)

    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """Assignments (B, K) of a long view, balanced together with its queue."""
        kept = scores[:0]
        if view < 2 and self.queue.shape[1] and bool(self.filled >= self.queue.shape[1]):
            kept = self.queue[view] @ self.prototypes.detach().T
        return sinkhorn(torch.cat([kept, scores]), self.epsilon, self.iterations)[len(kept) :]

    def _enqueue(self, z: Tensor) -> None:
        size = self.queue.shape[1]
        self.queue.copy_(torch.cat([z, self.queue[: len(z)]], dim=1)[:, :size])
        self.filled.add_(z.shape[1]).clamp_(max=size)

    def after_backward(self, progress: Progress) -> None:
        """The prototypes get no gradient at the start."""
        if progress.fraction < self.freeze:
            self.prototypes.grad = None


PART = SwAV
