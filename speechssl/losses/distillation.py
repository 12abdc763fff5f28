"""Terms of self-distillation with prototypes: DINO, SwAV, DINOv2, RDINO, SDPN.

methods/README.md 1.1 and 1.2. Each is a function of tensors; `methods/dino.py` and
`methods/swav.py` put them together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.distributed import gather_with_gradient, sum_over_ranks, world_size
from speechssl.nn.frames import accumulation_dtype

__all__ = ["cosine_distance", "dino_loss", "koleo", "koleo_of_views", "mean_entropy", "sinkhorn"]


def dino_loss(student: Tensor, teacher: Tensor, pairs: Tensor) -> Tensor:
    """Return the mean cross-entropy over the chosen pairs of views.

    Args:
        student: (V, B, K) log-probabilities.
        teacher: (U, B, K) probabilities, no gradient.
        pairs: (U, V) bool, the pairs that count (not the same view on both sides).
    """
    log_likelihoods = torch.einsum("ubk,vbk->uv", teacher, student) / student.shape[1]
    return -(log_likelihoods * pairs).sum() / pairs.sum()


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Return Sinkhorn-Knopp assignments (N, K): rows sum to 1, columns to N / K.

    The columns are those of the joined batch of all processes. Computed on logarithms,
    so no row or column can vanish.

    Args:
        logits: (N, K) teacher logits.
        temperature: tau_t.
        iterations: normalisations of columns and rows.
    """
    x = logits / temperature
    for _ in range(iterations):
        largest = x.max(0).values
        if world_size() > 1:
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        x = x - largest - sum_over_ranks((x - largest).exp().sum(0)).log()
        x = x - x.logsumexp(1, keepdim=True)
    return x.exp()


def koleo(embeddings: Tensor) -> Tensor:
    """Return DINOv2's Kozachenko-Leonenko term: -mean log distance to the nearest other sample.

    The diagonal is masked with minus infinity; the released -1 lets an antipodal sample
    be its own neighbour.

    Args:
        embeddings: (B, D), normalised here, so distances lie between 0 and 2.
    """
    x = _directions(embeddings)
    with torch.no_grad():
        nearest = (x @ x.T).fill_diagonal_(-torch.inf).argmax(1)
    return -(F.pairwise_distance(x, x[nearest], eps=0.0) + 1e-8).log().mean()


def koleo_of_views(embeddings: Tensor) -> Tensor:
    """Return the sum of `koleo` over views (V, B, D), never across two views of an utterance.

    DINOv2 sums its two long crops, SDPN its four student crops.
    """
    return torch.stack([koleo(view) for view in embeddings]).sum()


def mean_entropy(log_p: Tensor) -> Tensor:
    """Return the entropy of the mean assignment over all views and all processes.

    Args:
        log_p: (V, B, K) log-probabilities; B is the same in every process.
    """
    own_mean = log_p.exp().mean((0, 1))
    mean = gather_with_gradient(own_mean.view(1, 1, -1)).mean((0, 1))
    return -(mean * mean.clamp_min(1e-12).log()).sum()


def cosine_distance(student: Tensor, teacher: Tensor, pairs: Tensor) -> Tensor:
    """Return 1 - the mean cosine of embeddings (V, B, D) and (U, B, D) over ``pairs`` (U, V)."""
    s = _directions(student)
    t = _directions(teacher)
    cosines = torch.einsum("ubd,vbd->uv", t, s) / s.shape[1]
    return 1 - (cosines * pairs).sum() / pairs.sum()


def _directions(x: Tensor) -> Tensor:
    """Return `x` at unit length along its last dimension, in float32 at least."""
    return F.normalize(x.to(accumulation_dtype(x.dtype)), dim=-1)
