"""The source of speech: intonation, glottal pulses, aspiration and frication before any filter."""

from typing import NamedTuple

import numpy as np

from speechssl.corpora.synthetic.phones import CONTROL_RATE, Segment, control, hold, smooth
from speechssl.corpora.synthetic.voice import Speaker

SAMPLE_RATE = 16_000
"""Hz."""


class Excitation(NamedTuple):
    """The three sources of sound, each (T,) float32."""

    pulses: np.ndarray
    breath: np.ndarray
    noise: np.ndarray


def intonation(
    voice: Speaker, segments: list[Segment], tremor: float, rng: np.random.Generator
) -> np.ndarray:
    """Return f0 in Hz at each control frame, (C,): accents on vowels, declination, tremor, flutter.

    Args:
        voice: gives the median and the range.
        segments: of the sentence.
        tremor: amplitude at 5 to 7 Hz, semitones.
        rng: draws accents, tremor and flutter.
    """
    accents = []
    slopes = []  # falls from 1 to -1 over the first two seconds of a phrase
    phrase_seconds = 0.0
    for segment in segments:
        phrase_seconds += segment.seconds
        if _is_pause(segment):
            phrase_seconds = 0.0
        accents.append(0.0 if segment.vowel is None else rng.normal())
        slopes.append(float(np.clip(1.0 - phrase_seconds, -1.0, 1.0)))
    semitones = smooth(hold(segments, np.array(accents)), 0.16)
    semitones *= 0.9 * voice.f0_range / max(float(semitones.std()), 1e-6)
    semitones += smooth(hold(segments, np.array(slopes)), 0.25) * 0.5 * voice.f0_range
    is_voiced = control(segments, "voice", 0.0) > 0.2
    semitones -= np.median(semitones[is_voiced])
    time = np.arange(len(semitones)) / CONTROL_RATE
    semitones += tremor * np.sin(2 * np.pi * (rng.uniform(5.0, 7.0) * time + rng.random()))
    flutter = smooth(rng.normal(size=len(time)), 0.04)
    semitones += 0.15 * flutter * np.sqrt(0.04 * CONTROL_RATE)
    return np.clip(voice.f0 * 2 ** (semitones / 12), 55.0, 600.0)


def _is_pause(segment: Segment) -> bool:
    is_silent = segment.voice == segment.breath == segment.noise == 0.0
    return is_silent and segment.seconds > 0.1


def excitation(
    voice: Speaker, segments: list[Segment], f0: np.ndarray, samples: int, rng: np.random.Generator
) -> Excitation:
    """Return the glottal pulses, the aspiration and the frication of a sentence.

    Args:
        voice: who speaks.
        segments: of the sentence.
        f0: (C,) Hz at each control frame.
        samples: T.
        rng: draws jitter, shimmer and noise.
    """
    time = np.arange(samples) * (CONTROL_RATE / SAMPLE_RATE)
    grid = np.arange(len(f0))
    loudness = np.interp(time, grid, control(segments, "voice", 0.03))
    aspiration = np.interp(time, grid, control(segments, "breath", 0.016))
    frication = np.interp(time, grid, control(segments, "noise", 0.008))
    phase = np.cumsum(np.interp(time, grid, f0) / SAMPLE_RATE)
    voiced = pulses(voice, phase, rng) * loudness
    white = rng.standard_normal((2, samples), dtype=np.float32)
    opening = 1.0 + 0.7 * np.cos(2 * np.pi * phase + 0.8)  # aspiration is louder while it is open
    breath = white[0] * (0.25 * aspiration + 10 ** (voice.breath / 20) * loudness * opening)
    noise = 0.5 * frication * white[1]
    return Excitation(
        voiced.astype(np.float32), breath.astype(np.float32), noise.astype(np.float32)
    )


def pulses(voice: Speaker, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a band-limited pulse each time `phase` passes an integer: (T,), of unit mean power.

    Args:
        voice: gives jitter and shimmer.
        phase: (T,) cycles.
        rng: draws them.
    """
    count = int(phase[-1])
    at = np.interp(np.arange(1, count + 1), phase, np.arange(len(phase)))  # in samples
    period = np.diff(at, prepend=0.0)
    at = at + voice.jitter * period * rng.normal(size=count)
    height = np.sqrt(np.maximum(period, 1.0)) * (1.0 + voice.shimmer * rng.normal(size=count))
    taps = np.arange(-4, 5)
    place = np.round(at)[:, None] + taps
    offset = place - at[:, None]
    weight = height[:, None] * np.sinc(offset) * np.cos(np.pi * offset / 10) ** 2
    is_inside = (place >= 0) & (place < len(phase))
    return np.bincount(place[is_inside].astype(int), weight[is_inside], minlength=len(phase))
