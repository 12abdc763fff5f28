"""Taking out of pooled statistics what all recordings of a narrow band share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.nn.frames import Frames


class BandShift(nn.Module):
    """Subtracts from the statistics of narrow-band recordings what those have in common.

    Telephone recordings lie around another mean than wide-band ones: two strangers on the telephone
    then look alike, and one speaker on both does not. With m the mean spectrum of a recording (its
    features, averaged over frames), sigmoid(w . m + b) says how surely it is narrow, and the pooled
    statistics become p - sigmoid(w . m + b) s. w and b are a logistic regression, s is the difference of
    the two means: `egs/real/band_shift.py` finds them without labels. At first w, b and s are 0.

    Args:
        input_dim: M, features of a frame.
        pooled_dim: P.
    """

    weight: Tensor
    """(M,) w."""

    offset: Tensor
    """() b."""

    shift: Tensor
    """(P,) s."""

    def __init__(self, input_dim: int, pooled_dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(input_dim))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("shift", torch.zeros(pooled_dim))

    def forward(self, pooled: Tensor, features: Tensor, frames: Frames) -> Tensor:
        """Return statistics (B, P), shifted; `features` (B, F, M) are the encoder's input."""
        spectrum = frames.mean(features)
        narrow = torch.sigmoid((spectrum * self.weight).sum(1) + self.offset)
        return pooled - narrow[:, None] * self.shift
