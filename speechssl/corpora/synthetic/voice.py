"""Who speaks, and how: the voices of speakers, sessions and emotions.

The numbers from which voices are drawn are chosen to spread over adult voices, without
a corpus behind them; emotions have their sources at `STYLES`.
"""

from dataclasses import dataclass, replace

import numpy as np

from speechssl.corpora.synthetic.phones import VOWELS


@dataclass(frozen=True, slots=True)
class Speaker:
    """What stays with a speaker.

    Attributes:
        sex: "f" or "m".
        scale: ratio by which every formant is multiplied: 17 cm / the vocal tract's
            length.
        formant_shift: (9,) ratios, one a formant.
        vowel_shift: (vowels, 3) ratios of the vowels' formants: an accent.
        f0: median fundamental frequency in neutral speech, Hz.
        f0_range: standard deviation of the accents, semitones.
        jitter: standard deviation of a period, as a ratio of it.
        shimmer: standard deviation of a pulse's amplitude, as a ratio of it.
        breath: aspiration beside the voice, dB.
        tilt: corner of the glottal low-pass, Hz.
        glottal: frequency of the glottal formant, as a ratio of f0.
        rate: speed of speaking, as a ratio.
        nasal: frequency of the nasal pole, Hz.
        hiss: loudness of fricatives and bursts, as a ratio.
        noise_scale: ratio by which the peaks of fricatives are multiplied.
        damping: ratio by which the bandwidths are multiplied.
    """

    sex: str
    scale: float
    formant_shift: np.ndarray
    vowel_shift: np.ndarray
    f0: float
    f0_range: float
    jitter: float
    shimmer: float
    breath: float
    tilt: float
    glottal: float
    rate: float
    nasal: float
    hiss: float
    noise_scale: float
    damping: float


@dataclass(frozen=True, slots=True)
class Style:
    """What an emotion does to a neutral voice.

    Attributes:
        f0: ratio, and so are `f0_range`, `rate`, `tilt` and `jitter` (see `Speaker`).
        level: added, dB.
        breath: added, dB.
        tremor: amplitude of f0 at about 6 Hz, semitones.
    """

    f0: float = 1.0
    f0_range: float = 1.0
    rate: float = 1.0
    level: float = 0.0
    tilt: float = 1.0
    breath: float = 0.0
    jitter: float = 1.0
    tremor: float = 0.0


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


@dataclass(frozen=True, slots=True)
class _Adults:
    """What differs between the sexes: means, and what is added to those of men."""

    tract_length: float  # cm
    tract_deviation: float  # cm
    f0: float  # Hz
    added_breath: float  # dB
    log_noise_scale: float


_ADULTS = {
    "m": _Adults(16.9, 0.9, f0=118.0, added_breath=0.0, log_noise_scale=0.0),
    "f": _Adults(14.6, 0.8, f0=205.0, added_breath=3.0, log_noise_scale=0.08),
}


def draw_speaker(rng: np.random.Generator, sex: str) -> Speaker:
    """Draw an adult voice; `sex` is "f" or "m"."""
    adults = _ADULTS[sex]
    # The order of the draws decides the corpus: add new ones at the end.
    tract_length = rng.normal(adults.tract_length, adults.tract_deviation)
    formant_shift = np.exp(rng.normal(0.0, [0.04] * 3 + [0.06] * 6))
    vowel_shift = np.exp(rng.normal(0.0, [0.06, 0.05, 0.03], (len(VOWELS), 3)))
    log_f0 = np.clip(rng.normal(0.0, 0.18), -0.36, 0.36)
    return Speaker(
        sex=sex,
        scale=float(17.0 / np.clip(tract_length, 13.0, 18.8)),
        formant_shift=formant_shift,
        vowel_shift=vowel_shift,
        f0=float(adults.f0 * np.exp(log_f0)),
        f0_range=float(rng.uniform(1.2, 2.8)),
        jitter=float(rng.uniform(0.003, 0.014)),
        shimmer=float(rng.uniform(0.02, 0.08)),
        breath=float(rng.uniform(-38.0, -16.0) + adults.added_breath),
        tilt=float(np.exp(rng.uniform(np.log(600.0), np.log(4500.0)))),
        glottal=float(rng.uniform(0.8, 1.8)),
        rate=_ratio(rng, 0.12),
        nasal=float(rng.uniform(240.0, 330.0)),
        hiss=float(10 ** (rng.normal(0.0, 3.0) / 20)),
        noise_scale=float(np.exp(rng.normal(adults.log_noise_scale, 0.07))),
        damping=_ratio(rng, 0.25),
    )


def _ratio(rng: np.random.Generator, deviation: float) -> float:
    """Draw a ratio around 1 whose logarithm has this standard deviation."""
    return float(np.exp(rng.normal(0.0, deviation)))


def on_a_day(speaker: Speaker, rng: np.random.Generator) -> Speaker:
    """Return the speaker as heard in one session: health and mood move the voice a little."""
    return replace(
        speaker,
        f0=speaker.f0 * _ratio(rng, 0.035),
        scale=speaker.scale * _ratio(rng, 0.007),
        tilt=speaker.tilt * _ratio(rng, 0.15),
        breath=speaker.breath + float(rng.normal(0.0, 1.5)),
        rate=speaker.rate * _ratio(rng, 0.04),
    )


def styled(speaker: Speaker, emotion: str, strength: float = 1.0) -> Speaker:
    """Return the speaker with an emotion.

    Args:
        speaker: in neutral speech.
        emotion: a key of `STYLES`.
        strength: 0 is neutral, 1 the style as listed.
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
