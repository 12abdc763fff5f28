"""Telling recordings of a narrow band, such as a telephone's, from those of a wide one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechssl.audio import reading

RATE = 16_000
"""Hz at which recordings are looked at."""

_NARROW_RATE = 8500  # Hz; a file of at most this rate holds a telephone's band and no more
_MOST_SECONDS = 20.0  # that are looked at
_SPEECH = (300.0, 3400.0)  # Hz: what a telephone lets through
_ABOVE = (4250.0, 7500.0)  # Hz: what it does not, behind the slope of a resampler
_NARROW = -60.0
"""dB of the power above to that of speech. Of 1,400 recordings of 12 sets the wide ones lie between -61
and 7, their telephone versions below -90; the noise of 16 bits and coders fills the gap."""

_FRAME = 512  # samples


def is_narrow(
    path: str, start: float = 0.0, stop: float | None = None, channel: int | None = None
) -> bool:
    """Return whether a recording is of a narrow band, by its first 20 s.

    Args:
        path: as `reading.read` takes it.
        start: where the recording begins in the file, seconds.
        stop: where it ends; None: at the end of the file.
        channel: from 1; None: the mean of all.

    Raises:
        UserError: it cannot be read.
    """
    if reading.info(path).rate <= _NARROW_RATE:
        return True
    end = start + _MOST_SECONDS
    end = end if stop is None else min(stop, end)
    return has_narrow_band(reading.read(path, RATE, start, end, channel))


def has_narrow_band(samples: NDArray[np.floating]) -> bool:
    """Return whether samples (T,) at `RATE` hold next to nothing above a telephone's band.

    Silence is not called narrow.
    """
    wave = np.pad(samples, (0, max(0, _FRAME - len(samples))))
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
