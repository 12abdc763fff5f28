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
    """Figures of a predictor W and the correlation F of its inputs.

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
    """Return the figures of a predictor W (D, D) and a correlation F (D, D)."""
    w = weight.double()
    f = correlation.double()
    energies, vectors = torch.linalg.eigh((f + f.T) / 2)
    chosen = energies > 1e-6 * energies.max()
    s = energies[chosen]
    u = vectors[:, chosen]
    images = w @ u
    alignment = F.cosine_similarity(u, images, dim=0).abs().mean()
    commutator = (w @ f - f @ w).norm() / (2 * w.norm() * f.norm()).clamp(min=1e-30)
    asymmetry = (w - w.T).norm() / w.norm().clamp(min=1e-30)
    root = s.sqrt()
    gain = (u * images).sum(0)
    centred = root - root.mean()
    slope = (centred * gain).sum() / centred.square().sum().clamp(min=1e-30)
    return PredictorFigures(float(alignment), float(commutator), float(asymmetry), float(slope))
