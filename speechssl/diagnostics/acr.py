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
    """Return views (V, N, D) at unit length in float64; None for a single view or a single point.

    Confusion is undefined there.
    """
    z = F.normalize(views.double(), dim=-1)
    if len(z) < 2 or (z - z.mean((0, 1))).abs().max() < 1e-7:
        return None
    return z


def acr(views: Tensor) -> float:
    """Return the average confusion ratio of (V, N, D), 0 to 1.

    NaN where all embeddings are equal, or V < 2.
    """
    z = unit_views(views)
    if z is None:
        return float("nan")
    samples = views.shape[1]
    utterance = torch.arange(samples, device=z.device)
    cosines = z[0] @ z.flatten(0, 1).T
    cosines[utterance, utterance] = -torch.inf
    nearest = cosines.argmax(1) % samples
    return float((nearest != utterance).double().mean())


def arc(views: Tensor, untrained: Tensor) -> float:
    """Return (1 - ACR) / (1 - ACR of the untrained encoder), the paper's ratio of final to initial.

    Larger means that utterances got easier to tell apart. NaN where the denominator is 0 or
    undefined.
    """
    initial = 1 - acr(untrained)
    if not initial > 0:
        return float("nan")
    return (1 - acr(views)) / initial


PART = Diagnostic(
    acr,
    healthy=lambda n, d: (0.0, 0.6),
    collapsed=lambda value, n, d: value > 0.99 and n > 100,
    tells="crops whose nearest neighbour is another utterance's (ACR)",
    better="lower",
    needs="views",
)
