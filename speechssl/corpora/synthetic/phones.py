"""Nonsense sentences for the generated voices: sounds, their targets, and smooth control tracks.

A sentence is a list of `Segment`s (a stop is three: closure, burst, aspiration). Vowel
formants are the male means of Peterson and Barney (1952, JASA 24, Table II), those of
glides the targets of Klatt (1980, JASA 67, Table II); the loci, noises and zeros of
other consonants are textbook values (Stevens 1998, Acoustic Phonetics).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

CONTROL_RATE = 500
"""Control frames a second."""

Formants = tuple[float, float, float]
"""The first three, Hz."""

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
"""Formants, Hz."""

REST = (500.0, 1500.0, 2500.0)
"""Formants of a uniform tube of 17 cm, closed at one end."""

LABIAL = (250.0, 900.0, 2300.0)
ALVEOLAR = (250.0, 1750.0, 2700.0)
VELAR = (250.0, 2100.0, 2400.0)

GLIDES = (
    (290.0, 610.0, 2150.0),  # w
    (260.0, 2070.0, 3020.0),  # y
    (310.0, 1060.0, 1380.0),  # r
    (310.0, 1050.0, 2880.0),  # l
)


class Nasal(NamedTuple):
    """Where the mouth is closed, and the frequency of the zero (Hz)."""

    locus: Formants
    zero: float


NASALS = (Nasal(LABIAL, 900.0), Nasal(ALVEOLAR, 1500.0), Nasal(VELAR, 2300.0))  # m, n, ng


class Noise(NamedTuple):
    """The noise of a fricative or of a burst: locus, peak and half-width (Hz), gain (ratio)."""

    locus: Formants
    peak: float
    width: float
    gain: float


FRICATIVES = (
    Noise(ALVEOLAR, 5800.0, 1300.0, 1.0),  # s
    Noise(ALVEOLAR, 3100.0, 900.0, 0.9),  # sh
    Noise(LABIAL, 5000.0, 4500.0, 0.22),  # f
    Noise(ALVEOLAR, 6000.0, 4000.0, 0.2),  # th
)
STOPS = (
    Noise(LABIAL, 900.0, 1500.0, 0.6),  # p, b
    Noise(ALVEOLAR, 4200.0, 1500.0, 1.0),  # t, d
    Noise(VELAR, 2000.0, 600.0, 1.0),  # k, g
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of constant targets.

    Attributes:
        seconds: its length.
        formants: Hz.
        voice: gain of the pulses, as a ratio; so are `breath` (aspiration) and `noise`
            (frication).
        peak: of the frication, Hz.
        width: half-width of that peak, Hz.
        zero: frequency of the nasal zero, Hz; 0: the nose is closed.
        vowel: row of `VOWELS`; None: not a vowel.
    """

    seconds: float
    formants: Formants
    voice: float = 0.0
    breath: float = 0.0
    noise: float = 0.0
    peak: float = 3000.0
    width: float = 1000.0
    zero: float = 0.0
    vowel: int | None = None


def sentence(rng: np.random.Generator, seconds: float, rate: float) -> list[Segment]:
    """Return a random sentence of exactly `seconds`: syllables in phrases, pauses between them.

    Args:
        rng: draws it.
        seconds: its length, with 0.2 s of silence around it.
        rate: multiplies the speed of speaking (1.0 is about 4 syllables a second);
            pauses shrink with it too.
    """
    spoken_seconds = seconds - 0.2
    segments: list[Segment] = []
    total = 0.0
    syllables_left = _phrase_length(rng)
    while total < spoken_seconds:
        if syllables_left == 0:
            new = [Segment(rng.uniform(0.15, 0.27) / rate, REST)]
            syllables_left = _phrase_length(rng)
        else:
            new = _syllable(rng, rate, is_last=syllables_left == 1)
            syllables_left -= 1
        segments += new
        total += sum(segment.seconds for segment in new)
    lead = float(rng.uniform(0.05, 0.15))
    factor = spoken_seconds / total
    stretched = [replace(segment, seconds=segment.seconds * factor) for segment in segments]
    return [Segment(lead, REST), *stretched, Segment(0.2 - lead, REST)]


def _phrase_length(rng: np.random.Generator) -> int:
    """Draw the number of syllables in a phrase."""
    return int(rng.integers(6, 10))


def _syllable(rng: np.random.Generator, rate: float, is_last: bool) -> list[Segment]:
    """Draw an onset (one in eight has none), a vowel and, one time in three, a coda."""
    onsets = (_stop, _fricative, _nasal, _glide, _nothing)
    codas = (_stop, _fricative, _nasal)
    onset: Sound = onsets[rng.choice(5, p=[0.32, 0.22, 0.14, 0.2, 0.12])]
    segments = onset(rng, rate)
    segments += _vowel(rng, rate, is_last)
    if rng.random() < 0.35:
        coda: Sound = codas[rng.choice(3, p=[0.3, 0.35, 0.35])]
        segments += coda(rng, rate)
    return segments


Sound = Callable[[np.random.Generator, float], list[Segment]]


def _nothing(rng: np.random.Generator, rate: float) -> list[Segment]:
    return []


def _vowel(rng: np.random.Generator, rate: float, is_last: bool) -> list[Segment]:
    """Draw a vowel or (one in four) a diphthong; the last of a phrase is longer and dies away."""
    lengthening = 1.3 if is_last else 1.0
    seconds = float(rng.uniform(0.08, 0.19)) / rate * lengthening
    gain = float(10 ** (rng.normal(0.0, 2.0) / 20))
    first, second = (int(row) for row in rng.integers(0, len(VOWELS), 2))
    is_diphthong = rng.random() < 0.25
    if not is_diphthong:
        second = first
    final_gain = gain * 0.5 if is_last else gain
    return [
        _half_vowel(first, seconds / 2, gain),
        _half_vowel(second, seconds / 2, final_gain),
    ]


def _half_vowel(row: int, seconds: float, gain: float) -> Segment:
    first, second, third = (float(formant) for formant in VOWELS[row])
    return Segment(seconds, (first, second, third), voice=gain, vowel=row)


def _glide(rng: np.random.Generator, rate: float) -> list[Segment]:
    seconds = float(rng.uniform(0.05, 0.08)) / rate
    formants = GLIDES[rng.integers(len(GLIDES))]
    return [Segment(seconds, formants, voice=0.55)]


def _nasal(rng: np.random.Generator, rate: float) -> list[Segment]:
    nasal = NASALS[rng.integers(len(NASALS))]
    seconds = float(rng.uniform(0.055, 0.1)) / rate
    return [Segment(seconds, nasal.locus, voice=0.5, zero=nasal.zero)]


def _fricative(rng: np.random.Generator, rate: float) -> list[Segment]:
    """Draw a fricative: h, or a voiceless or voiced one."""
    seconds = float(rng.uniform(0.07, 0.14)) / rate
    is_h = rng.random() < 0.15
    if is_h:
        return [Segment(seconds * 0.7, REST, breath=0.7)]
    locus, peak, width, gain = FRICATIVES[rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])]
    is_voiced = rng.random() < 0.3
    if is_voiced:
        return [Segment(seconds * 0.8, locus, voice=0.3, noise=0.45 * gain, peak=peak, width=width)]
    return [Segment(seconds, locus, noise=gain, peak=peak, width=width)]


def _stop(rng: np.random.Generator, rate: float) -> list[Segment]:
    """Draw a stop: closure and burst, and aspiration if it is voiceless."""
    locus, peak, width, gain = STOPS[rng.integers(len(STOPS))]
    is_voiced = bool(rng.random() < 0.45)
    closure_seconds = float(rng.uniform(0.045, 0.08)) / rate
    if is_voiced:
        closure = Segment(closure_seconds, locus, voice=0.12, peak=peak)
        burst = Segment(0.012, locus, noise=0.7 * gain, peak=peak, width=width)
        return [closure, burst]
    closure = Segment(closure_seconds, locus, peak=peak)
    burst = Segment(0.012, locus, noise=1.2 * gain, peak=peak, width=width)
    return [closure, burst, Segment(float(rng.uniform(0.02, 0.05)), locus, breath=0.6)]


def hold(segments: list[Segment], values: np.ndarray) -> np.ndarray:
    """Return the value of each control frame from one value (or row) a segment: (S, ...) -> (C, ...)."""
    edges = np.cumsum([segment.seconds for segment in segments])
    count = max(1, round(edges[-1] * CONTROL_RATE))
    time = np.arange(count) / CONTROL_RATE
    held: np.ndarray = values[np.searchsorted(edges[:-1], time, side="right")]
    return held


def control(segments: list[Segment], name: str, seconds: float) -> np.ndarray:
    """Return the track of one field of `Segment`, (C,) or (C, 3) control frames.

    Args:
        segments: of the sentence.
        name: of the field.
        seconds: over which it is smoothed.
    """
    values = np.array([getattr(segment, name) for segment in segments], dtype=float)
    return smooth(hold(segments, values), seconds)


def smooth(track: np.ndarray, seconds: float) -> np.ndarray:
    """Return a track (C,) or (C, N) averaged under a Hann window; its ends are held.

    Args:
        track: one row a control frame.
        seconds: length of the window.
    """
    half = round(seconds * CONTROL_RATE / 2)
    if half < 1:
        return track
    kernel = np.hanning(2 * half + 3)[1:-1]
    kernel /= kernel.sum()
    columns = track.reshape(len(track), -1)
    padded = np.pad(columns, ((half, half), (0, 0)), mode="edge")
    smoothed = [np.convolve(column, kernel, mode="valid") for column in padded.T]
    return np.stack(smoothed, axis=1).reshape(track.shape)
