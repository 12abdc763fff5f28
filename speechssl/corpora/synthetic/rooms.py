"""Recording conditions for the generated voices: a microphone, a room, a noise, a distance.

A `Room` is shared by many speakers (so that the condition does not name the speaker);
each visit has its own level, distance and signal-to-noise ratio. The ranges are chosen,
from a good close microphone to a plain one across the room.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from speechssl.corpora.synthetic.source import SAMPLE_RATE
from speechssl.corpora.synthetic.speech import LEVEL

NOISES = ("white", "pink", "rumble", "hum", "babble")
EQUALISER_BANDS = 12
MAX_PEAK = 0.95


@dataclass(frozen=True, slots=True)
class Room:
    """One recording condition.

    Attributes:
        equaliser: (12,) dB at equal steps of log frequency, 60 Hz to 8 kHz.
        low: corner of the high-pass, Hz.
        high: corner of the low-pass, Hz.
        impulse: (R,) the reverberation without the direct sound, of unit energy.
        reverberation: reverberant to direct energy, dB.
        noise: one of `NOISES`.
        snr: below a neutral voice, dB.
        level: added to that of neutral speech, dB.
    """

    equaliser: np.ndarray
    low: float
    high: float
    impulse: np.ndarray
    reverberation: float
    noise: str
    snr: float
    level: float


def draw_room(rng: np.random.Generator) -> Room:
    """Draw a recording condition."""
    decay = float(rng.uniform(0.12, 0.6))  # seconds to -60 dB
    time = np.arange(round(min(decay, 0.4) * SAMPLE_RATE)) / SAMPLE_RATE
    impulse = rng.normal(size=len(time)) * 10 ** (-3.0 * time / decay)
    first_reflection = rng.uniform(0.002, 0.008)  # seconds
    impulse[: round(first_reflection * SAMPLE_RATE)] = 0.0
    curve = np.cumsum(rng.normal(0.0, 0.7, EQUALISER_BANDS))
    return Room(
        equaliser=curve - curve.mean(),
        low=float(rng.uniform(30.0, 120.0)),
        high=float(rng.uniform(7000.0, 9000.0)),
        impulse=impulse / np.sqrt(np.sum(impulse**2)),
        reverberation=float(rng.uniform(-30.0, -14.0)),
        noise=str(rng.choice(NOISES)),
        snr=float(rng.uniform(33.0, 38.0)),
        level=float(rng.uniform(-5.0, 3.0)),
    )


def visit(room: Room, rng: np.random.Generator) -> Room:
    """Return the room on another day: another distance, gain and loudness of the noise."""
    return replace(
        room,
        equaliser=room.equaliser + rng.normal(0.0, 0.5, EQUALISER_BANDS),
        reverberation=room.reverberation + float(rng.normal(0.0, 2.0)),
        snr=room.snr + float(rng.normal(0.0, 1.0)),
        level=room.level + float(rng.normal(0.0, 2.0)),
    )


def record(wave: np.ndarray, room: Room, rng: np.random.Generator) -> np.ndarray:
    """Return a wave as the room's microphone hears it, (T,) float32 with a peak below 1.

    Args:
        wave: (T,) at 16 kHz, at about the level of neutral speech.
        room: where it is recorded.
        rng: draws the noise.
    """
    size = scipy.fft.next_fast_len(len(wave) + len(room.impulse), real=True)
    frequency = np.linspace(0.0, SAMPLE_RATE / 2, size // 2 + 1, dtype=np.float32)
    spectrum = scipy.fft.rfft(wave.astype(np.float32), size)
    wet = 10 ** (room.reverberation / 20)
    response = 1.0 + wet * scipy.fft.rfft(room.impulse.astype(np.float32), size)
    spectrum *= response / np.sqrt(1.0 + wet**2)
    noise = _noise(room.noise, frequency, size, rng)
    noise *= 10 ** ((LEVEL - room.snr) / 20)
    spectrum = (spectrum + scipy.fft.rfft(noise, size)) * _microphone(room, frequency)
    spectrum *= 10 ** (room.level / 20)
    recorded: np.ndarray = scipy.fft.irfft(spectrum, size)[: len(wave)]
    peak = float(np.max(np.abs(recorded)))
    return (recorded * min(1.0, MAX_PEAK / max(peak, 1e-9))).astype(np.float32)


def _microphone(room: Room, frequency: np.ndarray) -> np.ndarray:
    """Return the gain of the equaliser and of the band's edges, (K,) float32, at (K,) Hz."""
    log_frequency = np.log(np.maximum(frequency, 1.0))
    bands = np.linspace(np.log(60.0), np.log(8000.0), len(room.equaliser))
    equaliser = 10 ** (np.interp(log_frequency, bands, room.equaliser) / 20)
    high_pass = (frequency / room.low) ** 4 / (1.0 + (frequency / room.low) ** 4)
    low_pass_inverse = 1.0 + (frequency / room.high) ** 12
    gain: np.ndarray = (equaliser * high_pass / low_pass_inverse).astype(np.float32)
    return gain


def _noise(kind: str, frequency: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return pink noise of unit power, half of it (in power) of another kind: (size,) float32.

    Args:
        kind: one of `NOISES`.
        frequency: (K,) of its transform, Hz.
        size: T.
        rng: draws it.
    """
    floor = np.maximum(frequency, 40.0)
    time = np.arange(size, dtype=np.float32) / SAMPLE_RATE
    noise = _coloured(floor**-0.5, size, rng)
    if kind == "hum":
        other = _hum(time, rng)
    elif kind == "babble":
        other = _babble(floor, time, rng)
    else:
        shapes = {"white": np.ones_like(floor), "pink": floor**-0.5, "rumble": floor**-1.2}
        other = _coloured(shapes[kind], size, rng)
    noise += other
    return _of_unit_power(noise)


def _hum(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return eight harmonics of the mains, (T,)."""
    mains = float(rng.choice([50.0, 60.0]))
    hum = np.zeros(len(time), np.float32)
    for harmonic in range(1, 9):
        phase = mains * harmonic * time + rng.random()
        hum += np.sin(2 * np.pi * phase) / harmonic**0.5
    hum /= np.sqrt(np.mean(hum**2))
    return hum


def _babble(floor: np.ndarray, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return noise with a spectrum like that of speech, which swings at 2 to 6 Hz, (T,)."""
    babble = _coloured(floor / (300.0**2 + floor**2) ** 0.9, len(time), rng)
    for swing in rng.uniform(2.0, 6.0, 3):
        babble *= 1.0 + 0.5 * np.sin(2 * np.pi * (swing * time + rng.random()))
    return babble


def _coloured(shape: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise whose spectrum has a shape (K,), of unit power: (size,) float32."""
    white = rng.standard_normal(size, dtype=np.float32)
    coloured: np.ndarray = scipy.fft.irfft(scipy.fft.rfft(white) * shape, size)
    return _of_unit_power(coloured)


def _of_unit_power(wave: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = wave / np.float32(np.sqrt(np.mean(wave**2)))
    return scaled
