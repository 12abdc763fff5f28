"""What all programs are set to: crops, encoder, head and optimiser."""

from __future__ import annotations

from dataclasses import dataclass

LONG_CROPS = 2
SHORT_CROPS = 4


@dataclass(frozen=True)
class Crops:
    """What a program's step starts from.

    Attributes:
        long: seconds of the two long crops, which the teacher sees as well.
        short: seconds of the four short crops.
        features: whether its loader gives features; else it gives waveforms.
        frames: frames of a long and of a short crop, where the loader gives features.
    """

    long: float
    short: float
    features: bool
    frames: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Head:
    """DINO's head: two hidden layers, the bottleneck, and the prototypes."""

    hidden: int
    bottleneck: int
    prototypes: int


HEAD = Head(hidden=2048, bottleneck=256, prototypes=4096)
