"""A linear predictor against the correlation of what it predicts from.

Tian et al. 2021; methods/README.md 9.

Gradient training brings the eigenspaces of W and F = E[z zᵀ] together, with W's gain on a mode
proportional to the square root of its energy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PredictorFigures(NamedTuple):
    """How W and F stand to each other.

    Attributes:
        alignment: mean |cos(u_j, W u_j)| over eigenvectors of F with energy above 1e-6 of the
            largest; 1 when aligned.
        commutator: |WF - FW| / (2 |W| |F|); 0 when they commute.
        asymmetry: |W - Wᵀ| / |W|; 0 when W is symmetric.
        slope: of the gains u_jᵀ W u_j against sqrt(s_j), least squares.
    """

    alignment: float
    commutator: float
    asymmetry: float
    slope: float


def predictor_spectrum(weight: Tensor, correlation: Tensor) -> PredictorFigures:
    """Of W and F, (D, D) each."""
    w, f = weight.double(), correlation.double()
    s, u = torch.linalg.eigh((f + f.T) / 2)
    chosen = s > 1e-6 * s.max()
    s, u = s[chosen], u[:, chosen]
    images = w @ u
    alignment = F.cosine_similarity(u, images, dim=0).abs().mean()
    commutator = (w @ f - f @ w).norm() / (2 * w.norm() * f.norm()).clamp(min=1e-30)
    asymmetry = (w - w.T).norm() / w.norm().clamp(min=1e-30)
    root, gain = s.sqrt(), (u * images).sum(0)
    centred = root - root.mean()
    slope = (centred * gain).sum() / centred.square().sum().clamp(min=1e-30)
    return PredictorFigures(*(float(x) for x in (alignment, commutator, asymmetry, slope)))
