"""SwAV: views of an utterance predict each other's balanced assignment to prototypes.

Caron et al. 2020 (NeurIPS); methods/README.md 6.6. Scores are cosines of projections
and K prototypes (unit length, restored before every step). Sinkhorn's algorithm on
scores / epsilon turns those of a long view into codes q whose columns are used equally,
and

    L = mean over long views of mean over the other views of CE(q, softmax(scores / tau))

epsilon 0.05, tau 0.1, 3 iterations. Where the batch is smaller than K, a queue of
earlier projections of each long view joins the assignment (``queue_size`` at least K),
from ``queue_start`` of the run on and once it is full. The prototypes do not move
during the first ``freeze_prototypes`` of the run. The published K is 3,000. As released,
the projector runs once, on the views of all lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Encoder, Method, Output, Progress, Views
from speechssl.losses.distillation import sinkhorn
from speechssl.nn.mlp import mlp
from speechssl.nn.precision import in_float32
from speechssl.nn.siamese import Network, ordered_pairs, project


class SwAV(Method):
    """Encoder, projector and prototypes.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        prototypes: K, their number.
        temperature: tau, which divides the cosines.
        epsilon: what divides the scores before Sinkhorn.
        sinkhorn_iterations: turns of normalising columns and rows.
        queue_size: projections kept of each long view, 0 = none.
        queue_start: share of the run after which the queue is filled.
        freeze_prototypes: share of the run in which the prototypes do not move.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "iterations": "sinkhorn_iterations",
        "queue": "queue_size",
        "freeze": "freeze_prototypes",
    }

    queue: Tensor
    """(2, Q, P) projections of the first two long views, the newest first."""

    filled: Tensor
    """How many rows of the queue hold a projection."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        prototypes: int = 128,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        queue_size: int = 0,
        queue_start: float = 0.15,
        freeze_prototypes: float = 0.01,
    ) -> None:
        super().__init__()
        self.net = Network(encoder, mlp([encoder.embedding_dim, hidden, projection]))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, projection), dim=1))
        self.temperature = temperature
        self.epsilon = epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.queue_start = queue_start
        self.freeze_prototypes = freeze_prototypes
        self.register_buffer("queue", torch.zeros(2, queue_size, projection))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained."""
        return self.net.encoder

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch, whose long views then join the queue."""
        with torch.no_grad():
            self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        embeddings, z, long = project(self.net, views, at_once=True)
        with in_float32(z):
            z = F.normalize(z, dim=-1)
            scores = z @ self.prototypes.T  # (V, B, K)
            codes = torch.stack([self._codes(scores[u].detach(), u) for u in range(long)])
            log_p = F.log_softmax(scores / self.temperature, dim=-1)
            terms = []
            for u, v in ordered_pairs(long, len(z)):
                terms.append(-(codes[u] * log_p[v]).sum(-1).mean())
            loss = torch.stack(terms).mean()
        has_queue = self.queue.shape[1] > 0
        if self.training and has_queue and progress.fraction >= self.queue_start:
            self._enqueue(gather_without_gradient(z[:2]))
        embedding = embeddings[:long].flatten(0, 1).detach()
        return Output(loss, _code_figures(codes), embedding, z)

    def _codes(self, scores: Tensor, view: int) -> Tensor:
        """Return assignments (B, K) for scores (B, K) of a long view.

        They are balanced together with the queue of this view, once the queue is full.
        """
        queued_scores = scores[:0]
        size = self.queue.shape[1]
        if view < 2 and size > 0 and bool(self.filled >= size):
            queued_scores = self.queue[view] @ self.prototypes.detach().T
        joined = torch.cat([queued_scores, scores])
        codes = sinkhorn(joined, self.epsilon, self.sinkhorn_iterations)
        return codes[len(queued_scores) :]

    def _enqueue(self, z: Tensor) -> None:
        """Put projections (2, N, P) before the queue's and drop the oldest."""
        size = self.queue.shape[1]
        self.queue.copy_(torch.cat([z, self.queue[: len(z)]], dim=1)[:, :size])
        self.filled.add_(z.shape[1]).clamp_(max=size)

    def after_backward(self, progress: Progress) -> None:
        """Remove the prototypes' gradient during the first ``freeze_prototypes`` of the run."""
        if progress.fraction < self.freeze_prototypes:
            self.prototypes.grad = None


def _code_figures(codes: Tensor) -> dict[str, Tensor]:
    """Return for codes (U, B, K) how many prototypes are some view's first, and the entropy."""
    winners = codes.flatten(0, 1).argmax(-1)
    used = torch.zeros_like(codes[0, 0]).index_fill_(0, winners, 1.0).sum()
    entropy = -(codes * codes.clamp_min(1e-30).log()).sum(-1).mean()
    return {"used_prototypes": used, "code_entropy": entropy}


PART = SwAV
