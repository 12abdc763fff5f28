"""Silence: the one threshold by which a recording counts as empty."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

THRESHOLD = 1e-4
"""Peak to peak, where full scale is 2: three quantisation steps at 16 bits."""


def is_silent(samples: npt.NDArray[np.float32]) -> bool:
    """Return True if samples (T,) span less than `THRESHOLD`; a constant offset is silence."""
    return is_silent_range(float(samples.min()), float(samples.max()))


def is_silent_range(lowest: float, highest: float) -> bool:
    """Return True if samples between `lowest` and `highest` are silent, as `is_silent` does."""
    return highest - lowest < THRESHOLD
