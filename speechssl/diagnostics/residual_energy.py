"""Centre against residual energy (Jha et al. 2024; methods/README.md 4.3).

With s_x the mean of the normalised embeddings of an utterance's views and s their mean over
utterances, E|s_x - s|^2 = E|s_x|^2 - |s|^2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from speechssl.interfaces import Diagnostic


def residual_energy(views: Tensor) -> float:
    """Return E|s_x - s|^2 of (V, N, D): 1 when utterances differ and views agree, 0 when collapsed."""
    means = F.normalize(views.float(), dim=-1).mean(0)
    return float((means - means.mean(0)).square().sum(-1).mean())


PART = Diagnostic(
    residual_energy,
    healthy=lambda n, d: (0.2, 1.0),
    collapsed=lambda value, n, d: value < 0.02,
    tells="what is left of an utterance once the common mean is taken off; 0 = nothing",
    better="higher",
    needs="views",
)
