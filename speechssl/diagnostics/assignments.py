"""Figures of a teacher's assignments to prototypes (Caron et al. 2021; methods/README.md 1.6, 9)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def assignment_figures(q: Tensor, cross_entropy: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """Return scalars for the log, on the device.

    Args:
        q: (U, B, K) teacher probabilities.
        cross_entropy: the mean over pairs of -sum q log p.
        pairs: (U, V) bool, the pairs of views that it is a mean over.

    Returns:
        ``teacher_entropy`` (0: no centring; ln K: no sharpening), ``kl`` of q and the student's p
        (0: the assignment no longer depends on the utterance), ``mean_assignment_entropy``, and
        ``used_prototypes``, the number of prototypes that are some utterance's most likely one.
    """
    entropies = -(q * q.clamp_min(1e-30).log()).sum(-1).mean(-1)
    weights = pairs.sum(1) / pairs.sum()
    mean = q.mean((0, 1))
    most_likely = q.flatten(0, 1).argmax(-1)
    used = torch.zeros_like(mean).index_fill_(0, most_likely, 1.0)
    return {
        "teacher_entropy": entropies.mean(),
        "kl": cross_entropy - (weights * entropies).sum(),
        "mean_assignment_entropy": -(mean * mean.clamp_min(1e-30).log()).sum(),
        "used_prototypes": used.sum(),
    }
