"""A source-filter synthesiser: who speaks (`Speaker`), how (`STYLES`), and the sound of it
(`speak`).

The source is a pulse train with jitter and shimmer plus aspiration noise; the filter a cascade of
digital resonators with a nasal pole and zero, and a parallel branch of frication noise (the
architecture of Klatt 1980, "Software for a cascade/parallel formant synthesizer"). The filter is
applied frame by frame in the frequency domain with overlap-add, so that all the work is done by
numpy on whole arrays.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from speechssl.corpora.synthetic.phones import (
    CONTROL_RATE,
    VOWELS,
    Segment,
    control,
    sentence,
    smoothed,
    steps,
)

RATE = 16_000  # samples a second
HOP, WINDOW, SIZE = 128, 256, 512  # samples: between frames, a frame, its transform
HIGHER = np.array(
    [3500.0, 4500.0, 5500.0, 6500.0, 7500.0, 8500.0]
)  # formants above the third, 17 cm tract (Hz)
BANDWIDTHS = np.array([90.0, 100.0, 150.0, 220.0, 300.0, 380.0, 450.0, 520.0, 600.0])  # Hz


@dataclass(frozen=True, slots=True)
class Speaker:
    """What stays with a speaker. `scale` multiplies every formant: 17 cm / the vocal tract's
    length.
    """

    sex: str
    scale: float
    formant_shift: np.ndarray  # (9,) ratios, one a formant
    vowel_shift: np.ndarray  # (vowels, 3) ratios: accent
    f0: float  # Hz, median in neutral speech
    f0_range: float  # semitones, deviation of the accents
    jitter: float  # ratio of the period
    shimmer: float  # ratio of the amplitude
    breath: float  # dB, aspiration beside the voice
    tilt: float  # Hz, corner of the glottal low-pass
    glottal: float  # glottal formant / f0
    rate: float  # ratio, speed of speaking
    nasal: float  # Hz, nasal pole
    hiss: float  # ratio, loudness of fricatives and bursts
    noise_scale: float  # ratio, shift of the fricatives' peaks
    damping: float  # ratio, of the bandwidths


@dataclass(frozen=True, slots=True)
class Style:
    """What an emotion does to a neutral voice: ratios, and dB for `level` and `breath`."""

    f0: float = 1.0
    f0_range: float = 1.0
    rate: float = 1.0
    level: float = 0.0
    tilt: float = 1.0
    breath: float = 0.0
    jitter: float = 1.0
    tremor: float = 0.0  # semitones at about 6 Hz


# Directions after Murray and Arnott 1993 (JASA 93(2), 1097) and Scherer 2003 (Speech Communication
# 40, 227): anger is higher, wider, faster, louder, brighter and tenser; happiness higher, much
# wider, a little faster and louder; sadness lower, narrower, slower, softer, duller and breathier;
# fear much higher, much faster, with irregular voicing (its range is narrower, as measured in
# RAVDESS, not wider). Sizes are those of everyday speech, well below acting: RAVDESS moves f0 by
# 1.42 (anger), 1.43 (happiness), 1.52 (fear) and 1.17 (sadness) and the level by 15, 9, 11 and 1 dB
# (medians of both intensities beside an actor's neutral). `strength` 1.5 moves f0 by 1.15, 1.28,
# 1.40 and 0.85 and the level by 5, 2, 0 and -5 dB.
STYLES = {
    "neutral": Style(),
    "happy": Style(f0=1.18, f0_range=1.7, rate=1.08, level=1.5, tilt=1.25),
    "sad": Style(f0=0.90, f0_range=0.5, rate=0.78, level=-3.0, tilt=0.7, breath=2.0, jitter=1.2),
    "angry": Style(f0=1.10, f0_range=1.3, rate=1.15, level=3.5, tilt=1.6, breath=-2.0, jitter=1.4),
    "fearful": Style(f0=1.25, f0_range=0.7, rate=1.22, breath=3.0, jitter=1.8, tremor=0.5),
}


def draw_speaker(rng: np.random.Generator, sex: str) -> Speaker:
    """A random adult voice; `sex` is "f" or "m"."""
    male = sex == "m"
    tract = rng.normal(16.9, 0.9) if male else rng.normal(14.6, 0.8)  # cm
    return Speaker(
        sex=sex,
        scale=float(17.0 / np.clip(tract, 13.0, 18.8)),
        formant_shift=np.exp(rng.normal(0.0, [0.04] * 3 + [0.06] * 6)),
        vowel_shift=np.exp(rng.normal(0.0, [0.06, 0.05, 0.03], (len(VOWELS), 3))),
        f0=float((118 if male else 205) * np.exp(np.clip(rng.normal(0.0, 0.18), -0.36, 0.36))),
        f0_range=float(rng.uniform(1.2, 2.8)),
        jitter=float(rng.uniform(0.003, 0.014)),
        shimmer=float(rng.uniform(0.02, 0.08)),
        breath=float(rng.uniform(-38.0, -16.0) + (0.0 if male else 3.0)),
        tilt=float(np.exp(rng.uniform(np.log(600.0), np.log(4500.0)))),
        glottal=float(rng.uniform(0.8, 1.8)),
        rate=float(np.exp(rng.normal(0.0, 0.12))),
        nasal=float(rng.uniform(240.0, 330.0)),
        hiss=float(10 ** (rng.normal(0.0, 3.0) / 20)),
        noise_scale=float(np.exp(rng.normal(0.0 if male else 0.08, 0.07))),
        damping=float(np.exp(rng.normal(0.0, 0.25))),
    )


def on_a_day(speaker: Speaker, rng: np.random.Generator) -> Speaker:
    """The same speaker as heard in one session: health and mood move the voice a little."""
    return replace(
        speaker,
        f0=speaker.f0 * float(np.exp(rng.normal(0.0, 0.035))),
        scale=speaker.scale * float(np.exp(rng.normal(0.0, 0.007))),
        tilt=speaker.tilt * float(np.exp(rng.normal(0.0, 0.15))),
        breath=speaker.breath + float(rng.normal(0.0, 1.5)),
        rate=speaker.rate * float(np.exp(rng.normal(0.0, 0.04))),
    )


def styled(speaker: Speaker, emotion: str, strength: float = 1.0) -> Speaker:
    """`speaker` speaking with `emotion` (a key of STYLES); `strength` 0 is neutral, 1 the style as
    listed.
    """
    style = STYLES[emotion]
    return replace(
        speaker,
        f0=speaker.f0 * style.f0**strength,
        f0_range=speaker.f0_range * style.f0_range**strength,
        rate=speaker.rate * style.rate**strength,
        tilt=speaker.tilt * style.tilt**strength,
        breath=speaker.breath + style.breath * strength,
        jitter=speaker.jitter * style.jitter**strength,
    )


def speak(
    speaker: Speaker, emotion: str, seconds: float, rng: np.random.Generator, strength: float = 1.0
) -> np.ndarray:
    """A random sentence, dry and close: (T,) float32 at 16 kHz, T = round(seconds * 16000).

    Its level is -26 dB (RMS, full scale 1) for a neutral voice, moved by the style's `level`.
    """
    voice = styled(speaker, emotion, strength)
    segments = [_voiced_by(voice, segment) for segment in sentence(rng, seconds, voice.rate)]
    samples = round(seconds * RATE)
    f0 = _intonation(voice, segments, STYLES[emotion].tremor * strength, rng)
    pulses, breath, noise = _sources(voice, segments, f0, samples, rng)
    frames = samples // HOP + 2
    at = np.minimum(np.arange(frames) * HOP * CONTROL_RATE // RATE, len(f0) - 1)
    tract = _tract(voice, segments, at)
    spectra = _spectra(pulses, frames) * (tract * _glottis(voice, f0[at]))
    spectra += _spectra(breath, frames) * tract
    spectra += _spectra(noise, frames) * _frication(segments, at)
    wave = _overlap_add(spectra, samples)
    level = 10 ** ((-26.0 + STYLES[emotion].level * strength) / 20)
    return (wave * (level / np.sqrt(np.mean(wave**2)))).astype(np.float32)


def _voiced_by(voice: Speaker, segment: Segment) -> Segment:
    """`segment` with this speaker's formants and noise peaks."""
    shift = voice.scale * voice.formant_shift[:3]
    if segment.vowel >= 0:
        shift = shift * voice.vowel_shift[segment.vowel]
    first, second, third = np.asarray(segment.formants) * shift
    return replace(
        segment,
        formants=(first, second, third),
        noise=segment.noise * voice.hiss,
        peak=min(segment.peak * voice.noise_scale, 7500.0),
        zero=segment.zero * voice.scale,
    )


def _intonation(
    voice: Speaker, segments: list[Segment], tremor: float, rng: np.random.Generator
) -> np.ndarray:
    """f0 in Hz, (C,) control frames: accents on vowels, declination over each phrase, flutter."""
    accents, slope, phrase = [], [], 0.0
    for segment in segments:
        phrase = 0.0 if _is_pause(segment) else phrase + segment.seconds
        accents.append(rng.normal() if segment.vowel >= 0 else 0.0)
        slope.append(float(np.clip(1.0 - phrase, -1.0, 1.0)))
    contour = smoothed(steps(segments, np.array(accents)), 0.16)
    contour *= 0.9 * voice.f0_range / max(float(contour.std()), 1e-6)
    contour += smoothed(steps(segments, np.array(slope)), 0.25) * 0.5 * voice.f0_range
    time = np.arange(len(contour)) / CONTROL_RATE
    contour -= np.median(contour[control(segments, "voice", 0.0) > 0.2])
    contour += tremor * np.sin(2 * np.pi * (rng.uniform(5.0, 7.0) * time + rng.random()))
    contour += 0.15 * smoothed(rng.normal(size=len(time)), 0.04) * np.sqrt(0.04 * CONTROL_RATE)
    return np.clip(voice.f0 * 2 ** (contour / 12), 55.0, 600.0)


def _is_pause(segment: Segment) -> bool:
    return segment.voice == segment.breath == segment.noise == 0.0 and segment.seconds > 0.1


def _sources(
    voice: Speaker, segments: list[Segment], f0: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The glottal pulses, the aspiration and the frication, each (T,), before any filter."""
    time = np.arange(samples) * (CONTROL_RATE / RATE)
    grid = np.arange(len(f0))
    loudness = np.interp(time, grid, control(segments, "voice", 0.03))
    aspiration = np.interp(time, grid, control(segments, "breath", 0.016))
    frication = np.interp(time, grid, control(segments, "noise", 0.008))
    phase = np.cumsum(np.interp(time, grid, f0) / RATE)
    pulses = _pulses(voice, phase, rng) * loudness
    white = rng.standard_normal((2, samples), dtype=np.float32)
    opening = 1.0 + 0.7 * np.cos(2 * np.pi * phase + 0.8)
    breath = white[0] * (0.25 * aspiration + 10 ** (voice.breath / 20) * loudness * opening)
    return (
        pulses.astype(np.float32),
        breath.astype(np.float32),
        (0.5 * frication * white[1]).astype(np.float32),
    )


def _pulses(voice: Speaker, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A band-limited pulse each time `phase` (T,) (cycles) passes an integer, of unit mean power:
    (T,).
    """
    count = int(phase[-1])
    at = np.interp(np.arange(1, count + 1), phase, np.arange(len(phase)))
    period = np.diff(at, prepend=0.0)
    at = at + voice.jitter * period * rng.normal(size=count)
    height = np.sqrt(np.maximum(period, 1.0)) * (1.0 + voice.shimmer * rng.normal(size=count))
    taps = np.arange(-4, 5)
    place = np.round(at)[:, None] + taps
    offset = place - at[:, None]
    weight = height[:, None] * np.sinc(offset) * np.cos(np.pi * offset / 10) ** 2
    inside = (place >= 0) & (place < len(phase))
    return np.bincount(place[inside].astype(int), weight[inside], minlength=len(phase))


def _resonance(frequency: np.ndarray, bandwidth: np.ndarray, delay: np.ndarray) -> np.ndarray:
    """1 / H of Klatt's digital resonator with unit gain at 0 Hz: (N,), (N,), (K,) -> (N, K)
    complex64.
    """
    radius = np.exp(-np.pi * bandwidth / RATE)
    b = 2 * radius * np.cos(2 * np.pi * frequency / RATE)
    c = -(radius**2)
    gain = 1.0 / (1.0 - b - c)
    terms = [(gain * term).astype(np.float32)[:, None] for term in (np.ones_like(b), -b, -c)]
    first, second = (delay**power for power in (1, 2))
    result: np.ndarray = terms[0] + terms[1] * first + terms[2] * second
    return result


def _tract(voice: Speaker, segments: list[Segment], at: np.ndarray) -> np.ndarray:
    """The vocal tract's response at the control frames `at` (N,): (N, 257) complex.

    The nose is a fixed pole and a zero that moves away from it while open (and cancels it
    otherwise).
    """
    delay = np.exp(-2j * np.pi * np.arange(SIZE // 2 + 1) / SIZE).astype(np.complex64)
    wide = BANDWIDTHS * voice.damping * (1.0 + max(0.0, (voice.breath + 28.0) / 30.0))
    high = HIGHER * voice.scale * voice.formant_shift[3:]
    heard = high < 0.49 * RATE
    fixed = np.prod(_resonance(high[heard], wide[3:][heard], delay), axis=0)
    fixed *= _resonance(np.array([voice.nasal]), np.array([90.0]), delay)[0]
    closed = np.broadcast_to(fixed, (len(at), len(delay)))
    for track, width in zip(control(segments, "formants", 0.07)[at].T, wide, strict=False):
        closed = closed * _resonance(track, np.full(len(at), width), delay)
    nose = np.array([segment.zero > 0 for segment in segments], dtype=float)
    opened = smoothed(steps(segments, nose), 0.03)[at]
    zero = np.maximum(control(segments, "zero", 0.03)[at], voice.nasal)
    return _resonance(zero, 90.0 + 60.0 * opened, delay) / closed


def _glottis(voice: Speaker, f0: np.ndarray) -> np.ndarray:
    """Glottal flow and lip radiation: a broad peak, then -6 dB an octave, then `tilt`."""
    frequency = np.linspace(0.0, RATE / 2, SIZE // 2 + 1, dtype=np.float32)
    s = (frequency / (voice.glottal * f0)[:, None].astype(np.float32)) * np.complex64(1j)
    corner = 1.0 + np.complex64(1j / voice.tilt) * frequency
    result: np.ndarray = 2.0 * s / ((1.0 + s * np.float32(1 / 1.2) + s * s) * corner)
    return result


def _frication(segments: list[Segment], at: np.ndarray) -> np.ndarray:
    """The frication branch: one broad peak a sound, (N, 257) real."""
    frequency = np.linspace(0.0, RATE / 2, SIZE // 2 + 1)
    peak, width = (control(segments, name, 0.0)[at][:, None] for name in ("peak", "width"))
    shape = 1.0 / (1.0 + ((frequency - peak) / width) ** 2)
    return (shape * np.minimum(frequency / 800.0, 1.0)).astype(np.float32)


def _spectra(wave: np.ndarray, frames: int) -> np.ndarray:
    """Hann frames of `wave` (T,), the first centred on sample 0: (N, 257) complex64."""
    padded = np.zeros((frames - 1) * HOP + WINDOW, np.float32)
    padded[WINDOW // 2 : WINDOW // 2 + len(wave)] = wave
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
    framed = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * window
    spectra: np.ndarray = scipy.fft.rfft(framed, SIZE, axis=1)
    return spectra


def _overlap_add(spectra: np.ndarray, samples: int) -> np.ndarray:
    framed = scipy.fft.irfft(spectra, SIZE, axis=1)
    blocks = SIZE // HOP
    out = np.zeros((len(framed) + blocks - 1, HOP))
    for block in range(blocks):
        out[block : block + len(framed)] += framed[:, block * HOP : (block + 1) * HOP]
    wave: np.ndarray = out.reshape(-1)[WINDOW // 2 : WINDOW // 2 + samples]
    return wave
