"""Crops a second that each codec of the augmentation takes, on one thread.

A loader that gives 64 utterances of two crops a step has 128 crops to prepare in the time of a step.
Silent input would be passed over, so it is noise of a voice's level.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from egs.bench._timing import alternate, show
from speechssl.augment import effects
from speechssl.augment.plan import NO_NOISE, NO_ROOM, PLAN, Codec

RATE = 16000


def main() -> None:
    """Print seconds and crops a second of each codec."""
    parser = argparse.ArgumentParser(prog="python -m egs.bench.codecs", description=__doc__)
    parser.add_argument("--crops", type=int, default=16, help="of a batch (default: 16)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a crop (default: 3)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    waves = 0.1 * torch.randn(args.crops, round(args.seconds * RATE), generator=generator)
    candidates = {codec.name.lower(): coding(waves, codec) for codec in Codec if codec}
    show(f"{args.seconds:g} s of {RATE} Hz", alternate(candidates), args.crops, "crops")


def coding(waves: Tensor, codec: Codec) -> Callable[[], Tensor]:
    """Return a call that passes waves (N, T) through a codec."""
    plan = np.zeros(len(waves), dtype=PLAN)
    plan["noise"] = NO_NOISE
    plan["rir"] = NO_ROOM
    plan["codec"] = codec
    plan["cutoff"] = 4000.0
    plan["bits"] = 8
    plan["rate"] = 0.5
    return lambda: effects.code(waves.clone(), plan, RATE)


if __name__ == "__main__":
    main()
