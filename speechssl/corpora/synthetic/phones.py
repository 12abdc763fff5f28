"""Nonsense sentences for the generated voices: sounds, their targets, and smooth control tracks.

A sentence is a list of `Segment`s (a stop is three: closure, burst, aspiration). Vowel formants are
the male means of Peterson and Barney (1952, Table II); consonant loci are textbook values (Stevens
1998).
"""

from dataclasses import dataclass, replace

import numpy as np

CONTROL_RATE = 500  # control frames a second

VOWELS = np.array(
    [
        (270, 2290, 3010),  # heed
        (390, 1990, 2550),  # hid
        (530, 1840, 2480),  # head
        (660, 1720, 2410),  # had
        (730, 1090, 2440),  # hod
        (570, 840, 2410),  # hawed
        (440, 1020, 2240),  # hood
        (300, 870, 2240),  # who'd
        (640, 1190, 2390),  # hud
        (490, 1350, 1690),  # heard
    ],
    dtype=float,
)
REST = (500.0, 1500.0, 2500.0)
LABIAL, ALVEOLAR, VELAR = (250.0, 900.0, 2300.0), (250.0, 1750.0, 2700.0), (250.0, 2100.0, 2400.0)
GLIDES = (
    (290.0, 610.0, 2150.0),
    (260.0, 2070.0, 3020.0),
    (310.0, 1060.0, 1380.0),
    (310.0, 1050.0, 2880.0),
)
NASALS = (
    (LABIAL, 900.0),
    (ALVEOLAR, 1500.0),
    (VELAR, 2300.0),
)  # locus, frequency of the nasal zero (Hz)
# locus, peak of the noise (Hz), its half-width (Hz), its gain (ratio)
FRICATIVES = (
    (ALVEOLAR, 5800.0, 1300.0, 1.0),
    (ALVEOLAR, 3100.0, 900.0, 0.9),
    (LABIAL, 5000.0, 4500.0, 0.22),
    (ALVEOLAR, 6000.0, 4000.0, 0.2),
)
STOPS = ((LABIAL, 900.0, 1500.0, 0.6), (ALVEOLAR, 4200.0, 1500.0, 1.0), (VELAR, 2000.0, 600.0, 1.0))


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of constant targets: duration in seconds, formants in Hz, gains as ratios."""

    seconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0
    noise: float = 0.0
    peak: float = 3000.0
    width: float = 1000.0
    zero: float = 0.0  # frequency of the nasal zero, 0: the nose is closed
    vowel: int = -1  # row of VOWELS, -1: not a vowel


def sentence(rng: np.random.Generator, seconds: float, rate: float) -> list[Segment]:
    """A random sentence of exactly `seconds`: syllables in phrases, pauses between them.

    `rate` multiplies the speed of speaking (1.0 is about 4 syllables a second); pauses shrink with
    it too.
    """
    body = seconds - 0.2
    segments: list[Segment] = []
    total, left = 0.0, int(rng.integers(6, 10))
    while total < body:
        if left == 0:
            new = [Segment(rng.uniform(0.15, 0.27) / rate, REST)]
            left = int(rng.integers(6, 10))
        else:
            new = _syllable(rng, rate, last=left == 1)
            left -= 1
        segments += new
        total += sum(segment.seconds for segment in new)
    lead = float(rng.uniform(0.05, 0.15))
    inner = _stretch(segments, body / total)
    return [Segment(lead, REST), *inner, Segment(0.2 - lead, REST)]


def _stretch(segments: list[Segment], factor: float) -> list[Segment]:
    return [replace(segment, seconds=segment.seconds * factor) for segment in segments]


def _syllable(rng: np.random.Generator, rate: float, last: bool) -> list[Segment]:
    onset = rng.choice(5, p=[0.32, 0.22, 0.14, 0.2, 0.12])
    segments: list[Segment] = []
    if onset < 4:
        segments += (_stop, _fricative, _nasal, _glide)[onset](rng, rate)
    segments += _vowel(rng, rate, last)
    if rng.random() < 0.35:
        segments += (_stop, _fricative, _nasal)[rng.choice(3, p=[0.3, 0.35, 0.35])](rng, rate)
    return segments


def _vowel(rng: np.random.Generator, rate: float, last: bool) -> list[Segment]:
    """A vowel or (one in four) a diphthong; the last of a phrase is longer and dies away."""
    seconds = float(rng.uniform(0.08, 0.19)) / rate * (1.3 if last else 1.0)
    loud = float(10 ** (rng.normal(0.0, 2.0) / 20))
    first, second = (int(row) for row in rng.integers(0, len(VOWELS), 2))
    if rng.random() >= 0.25:
        second = first
    return [
        _half_vowel(first, seconds / 2, loud),
        _half_vowel(second, seconds / 2, loud * (0.5 if last else 1)),
    ]


def _half_vowel(row: int, seconds: float, loud: float) -> Segment:
    first, second, third = (float(formant) for formant in VOWELS[row])
    return Segment(seconds, (first, second, third), voice=loud, vowel=row)


def _glide(rng: np.random.Generator, rate: float) -> list[Segment]:
    return [
        Segment(
            float(rng.uniform(0.05, 0.08)) / rate, GLIDES[rng.integers(len(GLIDES))], voice=0.55
        )
    ]


def _nasal(rng: np.random.Generator, rate: float) -> list[Segment]:
    locus, zero = NASALS[rng.integers(len(NASALS))]
    return [Segment(float(rng.uniform(0.055, 0.1)) / rate, locus, voice=0.5, zero=zero)]


def _fricative(rng: np.random.Generator, rate: float) -> list[Segment]:
    seconds = float(rng.uniform(0.07, 0.14)) / rate
    if rng.random() < 0.15:  # h
        return [Segment(seconds * 0.7, REST, breath=0.7)]
    locus, peak, width, gain = FRICATIVES[rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])]
    if rng.random() < 0.3:  # voiced
        return [Segment(seconds * 0.8, locus, voice=0.3, noise=0.45 * gain, peak=peak, width=width)]
    return [Segment(seconds, locus, noise=gain, peak=peak, width=width)]


def _stop(rng: np.random.Generator, rate: float) -> list[Segment]:
    locus, peak, width, gain = STOPS[rng.integers(len(STOPS))]
    voiced = bool(rng.random() < 0.45)
    closure = Segment(
        float(rng.uniform(0.045, 0.08)) / rate, locus, voice=0.12 if voiced else 0.0, peak=peak
    )
    burst = Segment(0.012, locus, noise=(0.7 if voiced else 1.2) * gain, peak=peak, width=width)
    if voiced:
        return [closure, burst]
    return [closure, burst, Segment(float(rng.uniform(0.02, 0.05)), locus, breath=0.6)]


def steps(segments: list[Segment], values: np.ndarray) -> np.ndarray:
    """One value (or row) a segment -> one a control frame: (S, ...) -> (C, ...)."""
    edges = np.cumsum([segment.seconds for segment in segments])
    count = max(1, round(edges[-1] * CONTROL_RATE))
    held: np.ndarray = values[
        np.searchsorted(edges[:-1], np.arange(count) / CONTROL_RATE, side="right")
    ]
    return held


def control(segments: list[Segment], name: str, smooth: float) -> np.ndarray:
    """The track of one field of `Segment`, smoothed over `smooth` seconds: (C,) or (C, 3) control
    frames.
    """
    return smoothed(
        steps(segments, np.array([getattr(s, name) for s in segments], dtype=float)), smooth
    )


def smoothed(track: np.ndarray, seconds: float) -> np.ndarray:
    """`track` (C,) or (C, N) averaged under a Hann window `seconds` long (ends held): the same
    shape.
    """
    half = round(seconds * CONTROL_RATE / 2)
    if half < 1:
        return track
    kernel = np.hanning(2 * half + 3)[1:-1]
    kernel /= kernel.sum()
    columns = track.reshape(len(track), -1)
    padded = np.pad(columns, ((half, half), (0, 0)), mode="edge")
    out = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    return out.reshape(track.shape)
