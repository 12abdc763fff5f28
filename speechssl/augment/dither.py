"""Dither: weak white noise, as Kaldi's front ends add it, so that digital silence has a level."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from speechssl.augment.draws import UniformDraws
from speechssl.augment.plan import NO_DITHER

FULL_SCALE = 32768.0
"""Steps of 16 bits in an amplitude of 1."""

TABLE_SAMPLES = 1 << 18
"""Places in the table of Gaussian noise, 16 s at 16 kHz."""


class Dither:
    """White Gaussian noise from a fixed table, beginning at a random place for each crop.

    A crop's noise is so a function of the seed and of its own draw, on every device.

    Args:
        deviation: in steps of 16 bits; 0: no dither.
        seed: of the table.
    """

    def __init__(self, deviation: float, seed: int) -> None:
        self.is_on = deviation > 0
        generator = torch.Generator().manual_seed(seed)
        samples = TABLE_SAMPLES if self.is_on else 0
        self.table = torch.randn(samples, generator=generator) * (deviation / FULL_SCALE)

    def to(self, device: torch.device | str) -> None:
        """Move the table to a device."""
        self.table = self.table.to(device)

    def draw(self, plan: np.ndarray, draws: UniformDraws) -> None:
        """Choose the place of each crop's noise in the table."""
        plan["dither"] = draws.integers("dither", 0, TABLE_SAMPLES) if self.is_on else NO_DITHER

    def add(self, waves: Tensor, plan: np.ndarray) -> Tensor:
        """Return waves (N, T) with the dither that a plan (N,) asks for, silent crops too."""
        rows = np.flatnonzero(plan["dither"] != NO_DITHER)
        if not (self.is_on and len(rows)):
            return waves
        samples = waves.shape[1]
        turns = math.ceil(samples / TABLE_SAMPLES) + 1  # the table is a circle
        stretches = self.table.repeat(turns).unfold(0, samples, 1)
        places = torch.from_numpy(plan["dither"][rows].astype(np.int64)).to(waves.device)
        dithered = waves.clone()
        dithered[torch.from_numpy(rows).to(waves.device)] += stretches[places]
        return dithered
