"""Silence: the one threshold by which a recording counts as empty."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

THRESHOLD = 1e-4
"""Peak to peak, where full scale is 2: three quantisation steps at 16 bits."""


def is_silent(samples: npt.NDArray[np.float32]) -> bool:
    """True if samples (T,) span less than `THRESHOLD` (so a constant offset is silent, too)."""
    return bool(samples.max() - samples.min() < THRESHOLD)
