"""The filters of speech: vocal tract, glottal flow, frication, as spectra for each frame."""

import numpy as np

from speechssl.corpora.synthetic.phones import Segment, control, hold, smooth
from speechssl.corpora.synthetic.source import SAMPLE_RATE
from speechssl.corpora.synthetic.voice import Speaker

FFT_SIZE = 512
"""Samples in the transform of a frame; spectra have K = 257 frequencies."""

HIGHER_FORMANTS = np.array([3500.0, 4500.0, 5500.0, 6500.0, 7500.0, 8500.0])
"""Formants above the third, Hz: those of a uniform tube of 17 cm, closed at one end."""

BANDWIDTHS = np.array([90.0, 100.0, 150.0, 220.0, 300.0, 380.0, 450.0, 520.0, 600.0])
"""Of the nine formants, Hz."""

NASAL_BANDWIDTH = 90.0
"""Of the nasal pole, Hz."""


def resonance(frequency: np.ndarray, bandwidth: np.ndarray, delay: np.ndarray) -> np.ndarray:
    """Return 1 / H of Klatt's digital resonator with unit gain at 0 Hz, (N, K) complex64.

    Args:
        frequency: (N,) Hz.
        bandwidth: (N,) Hz.
        delay: (K,) complex64, z^-1 at each frequency of the spectrum.
    """
    radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE)
    c = -(radius**2)
    gain = 1.0 / (1.0 - b - c)
    constant = _column(gain)
    first = _column(gain * -b)
    second = _column(gain * -c)
    inverse: np.ndarray = constant + first * delay + second * delay**2
    return inverse


def _column(values: np.ndarray) -> np.ndarray:
    column: np.ndarray = values.astype(np.float32)[:, None]
    return column


def tract(voice: Speaker, segments: list[Segment], at: np.ndarray) -> np.ndarray:
    """Return the response of the vocal tract at some control frames, (N, K) complex.

    The nose is a fixed pole and a zero, which moves away from the pole while the nose
    is open, and cancels it otherwise.

    Args:
        voice: who speaks.
        segments: of the sentence.
        at: (N,) control frames.
    """
    delay = np.exp(-2j * np.pi * np.arange(FFT_SIZE // 2 + 1) / FFT_SIZE).astype(np.complex64)
    breath_widening = 1.0 + max(0.0, (voice.breath + 28.0) / 30.0)
    bandwidths = BANDWIDTHS * voice.damping * breath_widening

    high = HIGHER_FORMANTS * voice.scale * voice.formant_shift[3:]
    is_heard = high < 0.49 * SAMPLE_RATE
    inverse_fixed = np.prod(resonance(high[is_heard], bandwidths[3:][is_heard], delay), axis=0)
    inverse_fixed *= resonance(np.array([voice.nasal]), np.array([NASAL_BANDWIDTH]), delay)[0]
    inverse = np.broadcast_to(inverse_fixed, (len(at), len(delay)))
    formants = control(segments, "formants", 0.07)[at]
    for number in range(3):
        bandwidth = np.full(len(at), bandwidths[number])
        inverse = inverse * resonance(formants[:, number], bandwidth, delay)

    has_zero = np.array([segment.zero > 0 for segment in segments], dtype=float)
    opening = smooth(hold(segments, has_zero), 0.03)[at]
    zero = np.maximum(control(segments, "zero", 0.03)[at], voice.nasal)
    response: np.ndarray = resonance(zero, NASAL_BANDWIDTH + 60.0 * opening, delay) / inverse
    return response


def glottis(voice: Speaker, f0: np.ndarray) -> np.ndarray:
    """Return the spectrum of glottal flow and lip radiation, (N, K) complex64.

    It has a broad peak, then falls by 6 dB an octave, and above `voice.tilt` faster.

    Args:
        voice: who speaks.
        f0: (N,) Hz.
    """
    frequency = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1, dtype=np.float32)
    peak = (voice.glottal * f0)[:, None].astype(np.float32)
    s = (frequency / peak) * np.complex64(1j)
    low_pass = 1.0 + np.complex64(1j / voice.tilt) * frequency
    spectrum: np.ndarray = 2.0 * s / ((1.0 + s * np.float32(1 / 1.2) + s * s) * low_pass)
    return spectrum


def frication(segments: list[Segment], at: np.ndarray) -> np.ndarray:
    """Return the filter of frication noise at the control frames `at` (N,): (N, K) float32.

    Each sound has one broad peak.
    """
    frequency = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)
    peak = control(segments, "peak", 0.0)[at][:, None]
    width = control(segments, "width", 0.0)[at][:, None]
    shape = 1.0 / (1.0 + ((frequency - peak) / width) ** 2)
    high_pass = np.minimum(frequency / 800.0, 1.0)
    response: np.ndarray = (shape * high_pass).astype(np.float32)
    return response
