"""What is chosen for a crop: one record of numbers for all effects."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

EQ_KNOTS = 8
"""Knots of the random equaliser, equally spaced in log frequency."""

TAPS = 6
"""Early reflections of a simulated room."""

NO_NOISE = -1
NO_ROOM = -1
SIMULATED_ROOM = -2
NO_DITHER = -1


class Codec(IntEnum):
    """Value of the field `codec` of a plan."""

    NONE = 0
    MU_LAW = 1
    TELEPHONE = 2
    """300 to 3400 Hz, and mu-law."""
    LOW_PASS = 3
    BITS = 4
    NARROW_BAND = 5
    """Through 8 kHz: nothing is left above 4 kHz."""
    G711_MU = 6
    """Through 8 kHz and the 8 bits of mu-law."""
    G711_A = 7
    """Through 8 kHz and the 8 bits of A-law."""
    GSM = 8
    """GSM 06.10 full rate, 13 kb/s at 8 kHz."""
    AMR = 9
    """AMR narrow-band, 4.75 to 12.2 kb/s at 8 kHz."""
    G721 = 10
    """ADPCM, 32 kb/s at 8 kHz (now part of G.726)."""
    OPUS = 11
    """7 to 35 kb/s."""
    MP3 = 12
    """24 to 60 kb/s."""


PLAN = np.dtype(
    [
        ("noise", np.int64),  # first sample in the noise bank, or NO_NOISE
        ("snr", np.float32),  # dB
        ("voices", np.int8),  # of the babble; 0: no babble
        ("neighbour", np.int16),  # which of the neighbours in the batch is the first voice
        ("babble_snr", np.float32),  # dB
        ("rir", np.int32),  # row of the room responses, NO_ROOM or SIMULATED_ROOM
        ("t60", np.float32),  # seconds
        ("drr", np.float32),  # direct-to-reverberant ratio, dB
        ("tail", np.int32),  # place in the table of tails
        ("taps", np.float32, (TAPS, 2)),  # early reflections: delay in seconds, gain in -1..1
        ("eq", np.float32, (EQ_KNOTS,)),  # dB at the knots; all 0: no equaliser
        ("band", np.float32, (2,)),  # lower and upper edge, Hz; 0: no edge
        ("codec", np.int8),  # a Codec
        ("cutoff", np.float32),  # of the low-pass codec, Hz
        ("bits", np.int8),  # of the codec of few bits
        ("rate", np.float32),  # of a coder of several bit rates: 0 the lowest, 1 the highest
        ("gain", np.float32),  # dB
        ("dither", np.int32),  # place in the table of dither, or NO_DITHER
    ]
)
"""Augmentation of one crop."""
