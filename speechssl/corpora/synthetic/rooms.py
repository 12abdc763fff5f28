"""Recording conditions for the generated voices: a microphone, a room, a noise, a distance.

A `Room` is shared by many speakers (so that the condition does not name the speaker); each visit
has its own level, distance and signal-to-noise ratio.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

RATE = 16_000  # samples a second
NOISES = ("white", "pink", "rumble", "hum", "babble")


@dataclass(frozen=True, slots=True)
class Room:
    """One recording condition. `equaliser` holds dB at equal steps of log frequency, 60 Hz to 8
    kHz.
    """

    equaliser: np.ndarray  # (12,) dB
    low: float  # Hz, high-pass corner
    high: float  # Hz, low-pass corner
    impulse: np.ndarray  # (R,) the reverberation without the direct sound, unit energy
    reverberation: float  # dB, reverberant to direct energy
    noise: str  # one of NOISES
    snr: float  # dB, beside a neutral voice
    level: float  # dB, beside -26 dB of full scale


def draw_room(rng: np.random.Generator) -> Room:
    """A random recording condition, from a good close microphone to a plain one across the room."""
    decay = float(rng.uniform(0.12, 0.6))  # seconds to -60 dB
    time = np.arange(round(min(decay, 0.4) * RATE)) / RATE
    impulse = rng.normal(size=len(time)) * 10 ** (-3.0 * time / decay)
    impulse[: round(rng.uniform(0.002, 0.008) * RATE)] = 0.0
    curve = np.cumsum(rng.normal(0.0, 0.7, 12))
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
    """The same room on another day: another distance, gain and loudness of the noise."""
    return replace(
        room,
        equaliser=room.equaliser + rng.normal(0.0, 0.5, 12),
        reverberation=room.reverberation + float(rng.normal(0.0, 2.0)),
        snr=room.snr + float(rng.normal(0.0, 1.0)),
        level=room.level + float(rng.normal(0.0, 2.0)),
    )


def record(wave: np.ndarray, room: Room, rng: np.random.Generator) -> np.ndarray:
    """`wave` (T,) at 16 kHz and about -26 dB as the room's microphone hears it: (T,) float32, peak
    < 1.
    """
    size = scipy.fft.next_fast_len(len(wave) + len(room.impulse), real=True)
    frequency = np.linspace(0.0, RATE / 2, size // 2 + 1, dtype=np.float32)
    heard = scipy.fft.rfft(wave.astype(np.float32), size)
    wet = 10 ** (room.reverberation / 20)
    heard *= (1.0 + wet * scipy.fft.rfft(room.impulse.astype(np.float32), size)) / np.sqrt(
        1.0 + wet**2
    )
    noise = _noise(room.noise, frequency, size, rng)
    noise *= 10 ** ((-26.0 - room.snr) / 20)
    heard = (heard + scipy.fft.rfft(noise, size)) * _microphone(room, frequency)
    heard *= 10 ** (room.level / 20)
    out: np.ndarray = scipy.fft.irfft(heard, size)[: len(wave)]
    peak = float(np.max(np.abs(out)))
    return (out * min(1.0, 0.95 / max(peak, 1e-9))).astype(np.float32)


def _microphone(room: Room, frequency: np.ndarray) -> np.ndarray:
    """The gain of the equaliser and the band's edges at `frequency` (K,) Hz."""
    octave = np.log(np.maximum(frequency, 1.0))
    bands = np.linspace(np.log(60.0), np.log(8000.0), len(room.equaliser))
    gain = 10 ** (np.interp(octave, bands, room.equaliser) / 20)
    edge = (frequency / room.low) ** 4 / (1.0 + (frequency / room.low) ** 4)
    result: np.ndarray = (gain * edge / (1.0 + (frequency / room.high) ** 12)).astype(np.float32)
    return result


def _noise(kind: str, frequency: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pink noise of `size` samples and unit power, half of it (in power) of another `kind`.

    `frequency` (K,) is that of its transform, in Hz.
    """
    floor = np.maximum(frequency, 40.0)
    shapes = {
        "white": np.ones_like(floor),
        "pink": floor**-0.5,
        "rumble": floor**-1.2,
        "babble": floor / (300.0**2 + floor**2) ** 0.9,
    }
    noise = _coloured(shapes["pink"], size, rng)
    time = np.arange(size, dtype=np.float32) / RATE
    if kind == "hum":
        mains = float(rng.choice([50.0, 60.0]))
        other = np.zeros(size, np.float32)
        for harmonic in range(1, 9):
            other += np.sin(2 * np.pi * (mains * harmonic * time + rng.random())) / harmonic**0.5
        other /= np.sqrt(np.mean(other**2))
    else:
        other = _coloured(shapes[kind], size, rng)
    if kind == "babble":
        for swing in rng.uniform(2.0, 6.0, 3):
            other *= 1.0 + 0.5 * np.sin(2 * np.pi * (swing * time + rng.random()))
    noise += other
    return noise / np.float32(np.sqrt(np.mean(noise**2)))


def _coloured(shape: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    noise: np.ndarray = scipy.fft.irfft(
        scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32)) * shape, size
    )
    return noise / np.float32(np.sqrt(np.mean(noise**2)))
