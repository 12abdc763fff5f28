"""Average confusion: how often an utterance's nearest crop is another's.

Wang et al. 2022; methods/README.md 10.

ACR is the share of first views whose nearest other embedding belongs to a different utterance; ARC
of a model is (1 - ACR) over that of its untrained encoder. Utterances are told apart by their
position, not modulo a batch as in the released program. Two utterances of one speaker count as
confusion: read it against the untrained encoder only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Diagnostic


def unit_views(views: Tensor) -> Tensor | None:
    """(V, N, D) at unit length, float64; None where confusion is undefined: one view, or one point
    only.
    """
    z = F.normalize(views.double(), dim=-1)
    return None if len(z) < 2 or (z - z.mean((0, 1))).abs().max() < 1e-7 else z


def acr(views: Tensor) -> float:
    """Average confusion ratio of (V, N, D), 0 to 1; NaN where all embeddings are one, or V < 2."""
    z, samples = unit_views(views), views.shape[1]
    if z is None:
        return float("nan")
    everything = z.flatten(0, 1)
    cosines = z[0] @ everything.T
    cosines[torch.arange(samples), torch.arange(samples)] = -torch.inf
    return float(
        (cosines.argmax(1) % samples != torch.arange(samples, device=z.device)).double().mean()
    )


def arc(views: Tensor, untrained: Tensor) -> float:
    """(1 - ACR) / (1 - ACR of the untrained encoder); NaN where that is 0 or undefined. Larger here
    means that utterances got easier to tell apart; the paper's ratio of 1 - ACR final to initial.
    """
    start = 1 - acr(untrained)
    return (1 - acr(views)) / start if start > 0 else float("nan")


PART = Diagnostic(
    acr,
    healthy=lambda n, d: (0.0, 0.6),
    collapsed=lambda value, n, d: value > 0.99 and n > 100,
    tells="crops whose nearest neighbour is another utterance's (ACR)",
    better="lower",
    needs="views",
)
