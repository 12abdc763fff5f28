"""Functionals of pitch, loudness, voice quality and spectrum: what came before networks.

    python recipes/emotion/functionals.py DIRECTORY... --out FILE.npz [--by librosa | opensmile]

`opensmile`: the 88 of eGeMAPSv02 (Eyben et al. 2016) by its authors' program (`pip install opensmile`; its
licence allows private use and research, no commercial use). `librosa`, the default: 49 of the same kinds.
DIRECTORY is a Kaldi directory; FILE holds a row for each utterance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import librosa
import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks

from speechssl.data.manifest import read_manifest

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RATE = 16000
HOP = 160
WINDOW = 512
PITCH_WINDOW = 1024
"""64 ms: three periods of the lowest voice."""

F0_RANGE = (55.0, 500.0)
VOICED_ABOVE = 0.5
"""Correlation of a voiced frame with itself one period later."""

SPEECH_WITHIN_DB = 40.0
"""Frames that are quieter than the loudest one by more are silence."""

SMOOTH = 9
"""Frames over which the loudness is averaged before its peaks are counted: less than a syllable."""

PEAK_DB = 3.0
"""How far a peak of the loudness rises above its surroundings, such as a syllable."""


class Described(NamedTuple):
    """A recording, every 10 ms.

    Attributes:
        values: descriptors (F,): `pitch` (semitones above 27.5 Hz), `harmonicity` (dB), `loudness`
            (dB), the spectrum's `centroid` (Hz), `slope`s (dB a kHz), ...
        voiced: (F,) frames in which `pitch` and `harmonicity` mean something.
        speech: (F,) frames that are not silent.
    """

    values: dict[str, Array]
    voiced: Mask
    speech: Mask


def describe(wave: NDArray[np.float32]) -> Described:
    """Return the descriptors of a recording (T,) at 16 kHz."""
    wave = np.pad(wave, (0, max(0, PITCH_WINDOW - len(wave))))
    amplitudes = np.abs(librosa.stft(wave, n_fft=WINDOW, hop_length=HOP)).astype(np.float64)
    f0, correlation = _pitch(wave)
    frames = min(amplitudes.shape[1], len(f0))
    amplitudes = amplitudes[:, :frames]
    power = amplitudes**2
    power += power.max() * 1e-10 + 1e-20  # relative: a gain changes the level and nothing else
    likely = correlation[:frames].clip(1e-3, 1 - 1e-3)
    loudness = 10 * np.log10(power.sum(0))
    values = {
        "pitch": 12 * np.log2(f0[:frames] / 27.5),
        "harmonicity": 10 * np.log10(likely / (1 - likely)),
        "loudness": loudness,
    }
    speech = loudness > loudness.max() - SPEECH_WITHIN_DB
    voiced = speech & (likely > VOICED_ABOVE)
    return Described(values | _spectral(power, amplitudes), voiced, speech)


def _pitch(wave: NDArray[np.float32]) -> tuple[Array, Array]:
    """Return the fundamental frequency (F,) in Hz, and the correlation (F,) at its period."""
    lowest, highest = F0_RANGE
    f0 = librosa.yin(
        wave, fmin=lowest, fmax=highest, sr=RATE, frame_length=PITCH_WINDOW, hop_length=HOP
    )
    padded = np.pad(wave, PITCH_WINDOW // 2).astype(np.float64)
    frames = librosa.util.frame(padded, frame_length=PITCH_WINDOW, hop_length=HOP).T
    frames = frames[: len(f0)]
    f0 = f0[: len(frames)]
    period = np.round(RATE / f0).astype(np.int64)
    columns = np.arange(PITCH_WINDOW)
    later = np.take_along_axis(
        frames, np.minimum(columns + period[:, None], PITCH_WINDOW - 1), axis=1
    )
    both = columns < PITCH_WINDOW - period[:, None]
    products = (frames * later * both).sum(1)
    energies = (frames**2 * both).sum(1) * (later**2 * both).sum(1)
    return f0.astype(np.float64), products / np.sqrt(energies + 1e-20)


def _spectral(power: Array, amplitudes: Array) -> dict[str, Array]:
    """Return descriptors (F,) of the power (bins, F): balance, slopes, change, shape."""
    hertz = librosa.fft_frequencies(sr=RATE, n_fft=WINDOW)
    decibels = 10 * np.log10(power)

    def band(low: float, high: float) -> Mask:
        return (hertz >= low) & (hertz < high)

    def slope(low: float, high: float) -> Array:
        inside = band(low, high)
        x = hertz[inside] / 1000
        centred = x - x.mean()
        return np.asarray(centred @ decibels[inside] / (centred**2).sum())

    def level(low: float, high: float) -> Array:
        return np.asarray(10 * np.log10(power[band(low, high)].sum(0)))

    unit = amplitudes / (np.linalg.norm(amplitudes, axis=0) + 1e-10)
    change = np.linalg.norm(np.diff(unit, axis=1, prepend=unit[:, :1]), axis=0)
    mels = librosa.feature.melspectrogram(S=power, sr=RATE, n_mels=40)
    cepstra = librosa.feature.mfcc(S=librosa.power_to_db(mels), n_mfcc=5)[1:]
    found = {
        "centroid": hertz @ power / power.sum(0),
        "flatness": decibels.mean(0) - 10 * np.log10(power.mean(0)),
        "alpha_ratio": level(50, 1000) - level(1000, 5000),
        "hammarberg": decibels[band(0, 2000)].max(0) - decibels[band(2000, 5000)].max(0),
        "slope_0_500": slope(0, 500),
        "slope_500_1500": slope(500, 1500),
        "flux": change,
    }
    for number, row in enumerate(cepstra, 1):
        found[f"mfcc{number}"] = row
    return found


def functionals(wave: NDArray[np.float32]) -> dict[str, float]:
    """Return the functionals of a recording (T,) at 16 kHz; 0 where it has no voice."""
    values, voiced, speech = describe(wave)
    found: dict[str, float] = {}
    for name, row in values.items():
        where = voiced if name in ("pitch", "harmonicity") else speech
        found[f"{name}_mean"] = _mean(row[where])
        found[f"{name}_deviation"] = _deviation(row[where])
        if name in ("pitch", "loudness"):
            contour = _contour(row, where)
            found |= {f"{name}_{key}": value for key, value in contour.items()}

    periods = 2 ** (-values["pitch"] / 12)
    if voiced.any():
        found["jitter"] = _mean(np.abs(_steps(periods, voiced))) / _mean(periods[voiced])
    else:
        found["jitter"] = 0.0
    found["shimmer"] = _mean(np.abs(_steps(values["loudness"], voiced)))
    seconds = max(1, int(speech.sum())) * HOP / RATE
    smooth = np.convolve(values["loudness"], np.full(SMOOTH, 1 / SMOOTH), "valid")
    peaks = find_peaks(smooth, prominence=PEAK_DB)[0]
    found["peaks_per_second"] = len(peaks) / seconds
    for name, wanted in (("voiced", True), ("unvoiced", False)):
        lengths = _runs(voiced[speech], wanted) * HOP / RATE
        found[f"{name}_per_second"] = len(lengths) / seconds
        found[f"{name}_length"] = _mean(lengths)
        found[f"{name}_length_deviation"] = _deviation(lengths)
    return found


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def _deviation(values: Array) -> float:
    return float(values.std()) if len(values) else 0.0


def _steps(row: Array, where: Mask) -> Array:
    """Return the changes from frame to frame, of neighbours that are both in the mask."""
    return np.diff(row)[where[1:] & where[:-1]]


def _contour(row: Array, where: Mask) -> dict[str, float]:
    """Return percentiles, their range, and the mean slopes (a second) where it rises and falls."""
    chosen = row[where] if where.any() else np.zeros(1)
    low, middle, high = np.percentile(chosen, [20, 50, 80])
    slopes = _steps(row, where) * RATE / HOP
    return {
        "percentile20": float(low),
        "median": float(middle),
        "percentile80": float(high),
        "range": float(high - low),
        "rise": _mean(slopes[slopes > 0]),
        "fall": _mean(slopes[slopes < 0]),
    }


def _runs(mask: Mask, wanted: bool) -> Array:
    """Return the lengths, in frames, of the runs of a value in a mask (F,)."""
    edges = np.flatnonzero(np.diff(mask)) + 1
    parts = np.split(mask, edges)
    return np.array([len(part) for part in parts if len(part) and part[0] == wanted], np.float64)


def by_librosa() -> Callable[[NDArray[np.float32]], Array]:
    """Return what makes a row (D,) of a recording."""
    return lambda wave: np.array(list(functionals(wave).values()))


def by_opensmile() -> Callable[[NDArray[np.float32]], Array]:
    """Return what makes a row (88,) of a recording, by openSMILE.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        import opensmile
    except ImportError:
        sys.exit(
            "functionals.py: openSMILE is not installed; read its licence, pip install opensmile"
        )
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return lambda wave: np.nan_to_num(smile.process_signal(wave, RATE).to_numpy()[0])


def rows(
    directories: list[str], row_of: Callable[[NDArray[np.float32]], Array]
) -> Iterator[tuple[str, Array]]:
    """Yield the id and the row of each utterance of the Kaldi directories."""
    for directory in directories:
        for utterance in read_manifest(directory):
            wave = utterance.read(RATE)
            yield utterance.id, row_of(np.asarray(wave, np.float32))


def main() -> None:
    """Write the functionals of every utterance."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--by", choices=("librosa", "opensmile"), default="librosa")
    args = parser.parse_args()
    row_of = by_librosa() if args.by == "librosa" else by_opensmile()
    found = dict(rows(args.directories, row_of))
    vectors = np.stack(list(found.values())).astype(np.float32)
    np.savez(args.out, ids=np.array(list(found)), embeddings=vectors)


if __name__ == "__main__":
    main()
