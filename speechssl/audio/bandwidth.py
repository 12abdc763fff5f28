"""Telling recordings of a narrow band, such as a telephone's, from those of a wide one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from speechssl.audio import reading
from speechssl.audio.readers import Samples
from speechssl.audio.silence import is_silent

RATE = 16_000
"""Hz at which recordings are looked at."""

_NARROW_RATE = 8500  # Hz; a file of at most this rate holds a telephone's band and no more
_MOST_SECONDS = 20  # that are looked at, and more only while there is silence
_SPEECH = (300.0, 3400.0)  # Hz: what a telephone lets through
_ABOVE = (4250.0, 7500.0)  # Hz: what it does not, behind the slope of a resampler
_NARROW = -60.0
"""dB of the power above to that of speech. Of 1,400 recordings of 12 sets the wide ones lie between -61
and 7, their telephone versions below -90; the noise of 16 bits and coders fills the gap."""

_FRAME = 512  # samples


def is_narrow(
    path: str, start: float = 0.0, stop: float | None = None, channel: int | None = None
) -> bool:
    """Return whether a recording is of a narrow band, by the first 20 s of it that are not silent.

    One side of a call may listen for long.

    Args:
        path: as `reading.read` takes it.
        start: where the recording begins in the file, seconds.
        stop: where it ends; None: at the end of the file.
        channel: from 1; None: the mean of all.

    Raises:
        UserError: it cannot be read.
    """
    file = reading.info(path)
    if file.rate <= _NARROW_RATE:
        return True
    end = file.seconds if stop is None else min(stop, file.seconds)
    begins = np.arange(start, max(end, start + 1 / RATE), _MOST_SECONDS).tolist()
    return _has_narrow_band(
        reading.read(path, RATE, begin, min(begin + _MOST_SECONDS, end), channel)
        for begin in begins
    )


def has_narrow_band(samples: Samples) -> bool:
    """Return whether samples (T,) at `RATE` hold next to nothing above a telephone's band.

    The first 20 s that are not silent count. Silence is not called narrow.
    """
    size = _MOST_SECONDS * RATE
    begins = range(0, max(1, len(samples)), size)
    return _has_narrow_band(samples[begin : begin + size] for begin in begins)


def _has_narrow_band(pieces: Iterable[Samples]) -> bool:
    """Return whether the first of some pieces that is not silent, or else the last, is narrow."""
    wave: Samples = np.zeros(0, np.float32)
    for wave in pieces:
        if len(wave) and not is_silent(wave):
            break
    wave = np.pad(wave, (0, max(0, _FRAME - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FRAME)[:: _FRAME // 2]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_FRAME)))).mean(axis=0)
    frequency = np.fft.rfftfreq(_FRAME, 1 / RATE)
    speech = _mean_between(power, frequency, _SPEECH)
    return bool(_mean_between(power, frequency, _ABOVE) < speech * 10 ** (_NARROW / 10))


def _mean_between(
    power: NDArray[np.floating], frequency: NDArray[np.floating], band: tuple[float, float]
) -> float:
    """Return the mean power of the frequencies of a band."""
    is_inside = (frequency >= band[0]) & (frequency <= band[1])
    return float(power[is_inside].mean())
