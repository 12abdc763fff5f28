"""A source-filter synthesiser: the sound of a voice that says a random sentence.

The source (`source.py`) is a pulse train with jitter and shimmer plus aspiration noise;
the filter (`vocal_tract.py`) a cascade of digital resonators with a nasal pole and
zero, and a parallel branch of frication noise: the architecture of Klatt 1980,
"Software for a cascade/parallel formant synthesizer" (JASA 67, 971). The filter is
applied frame by frame in the frequency domain with overlap-add, so that all the work is
done by numpy on whole arrays.
"""

from dataclasses import replace

import numpy as np
import scipy.fft

from speechssl.corpora.synthetic import source, vocal_tract
from speechssl.corpora.synthetic.phones import CONTROL_RATE, Segment, sentence
from speechssl.corpora.synthetic.source import SAMPLE_RATE
from speechssl.corpora.synthetic.vocal_tract import FFT_SIZE
from speechssl.corpora.synthetic.voice import STYLES, Speaker, styled

HOP = 128
"""Samples from one frame to the next."""

WINDOW = 256
"""Samples in a frame; the rest of its transform (`FFT_SIZE`) is room for the filter's response."""

LEVEL = -26.0
"""RMS of neutral speech, dB below full scale 1."""

MAX_NOISE_PEAK = 7500.0
"""Highest peak of frication noise, Hz."""


def speak(
    speaker: Speaker, emotion: str, seconds: float, rng: np.random.Generator, strength: float = 1.0
) -> np.ndarray:
    """Synthesise a random sentence, without a room.

    Args:
        speaker: who speaks.
        emotion: a key of `STYLES`.
        seconds: length of the sentence.
        rng: draws the sentence, its intonation and its noise.
        strength: of the emotion; 0 is neutral.

    Returns:
        Samples (T,) float32 at 16 kHz, T = round(seconds * 16000). The level is `LEVEL`
        for a neutral voice, moved by the style's `level`.
    """
    voice = styled(speaker, emotion, strength)
    style = STYLES[emotion]
    segments = [_spoken_by(voice, segment) for segment in sentence(rng, seconds, voice.rate)]
    samples = round(seconds * SAMPLE_RATE)
    f0 = source.intonation(voice, segments, style.tremor * strength, rng)
    pulses, breath, noise = source.excitation(voice, segments, f0, samples, rng)

    frames = samples // HOP + 2
    centres = np.arange(frames) * HOP
    at = np.minimum(centres * CONTROL_RATE // SAMPLE_RATE, len(f0) - 1)  # control frame of each
    tract = vocal_tract.tract(voice, segments, at)
    spectrum = spectra(pulses, frames) * (tract * vocal_tract.glottis(voice, f0[at]))
    spectrum += spectra(breath, frames) * tract
    spectrum += spectra(noise, frames) * vocal_tract.frication(segments, at)
    wave = overlap_add(spectrum, samples)

    rms = np.sqrt(np.mean(wave**2))
    wanted_rms = 10 ** ((LEVEL + style.level * strength) / 20)
    spoken: np.ndarray = (wave * (wanted_rms / rms)).astype(np.float32)
    return spoken


def _spoken_by(voice: Speaker, segment: Segment) -> Segment:
    """Return a segment with this speaker's formants and peaks of noise."""
    shift = voice.scale * voice.formant_shift[:3]
    if segment.vowel is not None:
        shift = shift * voice.vowel_shift[segment.vowel]
    first, second, third = np.asarray(segment.formants) * shift
    return replace(
        segment,
        formants=(first, second, third),
        noise=segment.noise * voice.hiss,
        peak=min(segment.peak * voice.noise_scale, MAX_NOISE_PEAK),
        zero=segment.zero * voice.scale,
    )


def spectra(wave: np.ndarray, frames: int) -> np.ndarray:
    """Return the spectra of Hann frames, the first centred on sample 0: (T,) -> (N, K) complex64.

    K = `FFT_SIZE` / 2 + 1.
    """
    padded = np.zeros((frames - 1) * HOP + WINDOW, np.float32)
    padded[WINDOW // 2 : WINDOW // 2 + len(wave)] = wave
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
    framed = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * window
    transformed: np.ndarray = scipy.fft.rfft(framed, FFT_SIZE, axis=1)
    return transformed


def overlap_add(spectrum: np.ndarray, samples: int) -> np.ndarray:
    """Return the wave of frames: (N, K) complex -> (T,), T = `samples`; undoes `spectra`."""
    framed = scipy.fft.irfft(spectrum, FFT_SIZE, axis=1)
    blocks = FFT_SIZE // HOP
    summed = np.zeros((len(framed) + blocks - 1, HOP))
    for block in range(blocks):
        summed[block : block + len(framed)] += framed[:, block * HOP : (block + 1) * HOP]
    wave: np.ndarray = summed.reshape(-1)[WINDOW // 2 : WINDOW // 2 + samples]
    return wave
