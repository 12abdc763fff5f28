"""MFCC statistics as a model without weights: the row that every trained encoder has to beat.

`speechssl embed mfcc DATA --out FILE`, or ``speechssl.load("mfcc")``. The mean and the
standard deviation over frames of 20 cepstra (the first is the level) of log-mels that
are not normalised: Davis and Mermelstein 1980, with an orthonormal cosine transform of
40 bands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from speechssl.interfaces import Encoder
from speechssl.model import Model
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import statistics

NAME = "mfcc"


class Cepstra(Encoder):
    """An encoder without weights: mean and standard deviation over frames of the cepstra.

    Args:
        input_dim: M, log-mel bands.
        cepstra: coefficients of their cosine transform; D is twice as many.
    """

    basis: Tensor

    def __init__(self, input_dim: int, *, cepstra: int = 20) -> None:
        super().__init__()
        self.embedding_dim = 2 * cepstra
        angle = math.pi / input_dim * (torch.arange(input_dim, dtype=torch.float64)[:, None] + 0.5)
        basis = (angle * torch.arange(cepstra)).cos() * math.sqrt(2 / input_dim)
        basis[:, 0] /= math.sqrt(2)
        self.register_buffer("basis", basis.float(), persistent=False)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return statistics (B, D) of `features` (B, F, M) over the valid frames (`lengths`, (B,))."""
        frames = Frames.of(features, lengths)
        return statistics(features @ self.basis, frames)


def mfcc_model() -> Model:
    """Return the model that `mfcc` stands for."""
    return Model({"n_mels": 40, "normalise": "none"}, {"name": f"{__name__}:{Cepstra.__name__}"})
