"""Checks of what users hand over in Python: samples, lengths, names of devices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.compat import best_device
from speechssl.embed.batches import Samples
from speechssl.errors import UserError


def find_device(name: str | torch.device) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU (CUDA, Apple's) if any, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = best_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"embed: device {str(name)!r} cannot be used ({reason}); use --device cpu"
        ) from error
    return device


def may_lack_operators(device: torch.device) -> bool:
    """True for Apple's GPU, which has no float64 and not every operator of torch."""
    return device.type == "mps"


def in_samples(lengths: Tensor, waves: Tensor) -> Tensor:
    """Return lengths (B,) in samples, int64.

    Args:
        lengths: (B,): integers are samples, floats are relative to T.
        waves: (B, T).

    Raises:
        UserError: not one length a waveform, or one that is not in 1 to T samples.
    """
    batch, longest = waves.shape
    if lengths.shape != (batch,):
        raise UserError(
            f"encode_batch: {tuple(lengths.shape)} lengths for {batch} waveforms; give one each"
        )
    samples = lengths.long()
    if lengths.is_floating_point():
        samples = (lengths.double() * longest).round().long()
    if int(samples.min()) < 1 or int(samples.max()) > longest:
        raise UserError(
            f"encode_batch: lengths must be samples from 1 to {longest} (integers) or relative,"
            f" above 0 and up to 1 (floats); got {lengths.tolist()}"
        )
    return samples


def mono_wave(
    samples: Any,
    sample_rate: int | None,
    model_rate: int,
    name: str,
    channel: int | None = None,
) -> Samples:
    """Return samples mixed down, scaled to -1..1 and resampled: (T,) float32 at `model_rate` Hz.

    Args:
        samples: array (T,) or (T, channels), floats or integers of any width.
        sample_rate: its sampling rate, Hz.
        model_rate: the sampling rate wanted, Hz.
        name: what messages call it.
        channel: which channel, from 1; None: the mean of all.

    Raises:
        UserError: there is no such channel; the array is empty, not of numbers, not
            finite, of another shape, or without a sampling rate.
    """
    array = np.asarray(samples)
    is_number = isinstance(sample_rate, int | float | np.generic)
    if sample_rate is None or not is_number or not 0 < sample_rate < math.inf:
        raise UserError(
            f"{name}: an array needs its sampling rate in Hz, got sample_rate={sample_rate!r}"
        )
    _check_shape(array, name)
    wave = scaled(array, name)
    channels = wave.shape[1] if wave.ndim == 2 else 1
    if channel is not None and not 1 <= channel <= channels:
        raise UserError(
            f"{name}: has {channels} channels, so no channel {channel}; channels count from 1"
        )
    if wave.ndim == 2:
        wave = wave.mean(axis=1) if channel is None else wave[:, channel - 1]
    wave = np.require(wave, np.float32, "W")  # torch warns of arrays that are read-only
    if not np.isfinite(wave).all():
        raise UserError(f"{name}: holds NaN or infinite samples; repair it or leave it out")
    if sample_rate != model_rate:
        import soxr

        resampled = soxr.resample(wave, sample_rate, model_rate, quality="HQ")
        wave = np.asarray(resampled, dtype=np.float32)
    if not len(wave):
        raise UserError(f"{name}: is empty after resampling to {model_rate} Hz; leave it out")
    return wave


def cut_out(
    wave: Samples, sample_rate: int, start: float, stop: float | None, name: str
) -> Samples:
    """Return the samples of a span of `wave` (T,).

    Args:
        wave: samples.
        sample_rate: of them, Hz.
        start: seconds.
        stop: seconds, or None for the end.
        name: what messages call the array.

    Raises:
        UserError: there is no such span.
    """
    last = None if stop is None else round(stop * sample_rate)
    is_span = 0 <= start < math.inf and (stop is None or start < stop)
    if not is_span or round(start * sample_rate) >= len(wave):
        raise UserError(
            f"{name}: cannot read from {start:g} s to {stop} s of {len(wave) / sample_rate:.3f} s;"
            " give 0 <= start < stop"
        )
    return wave[round(start * sample_rate) : last]


def _check_shape(array: npt.NDArray[Any], name: str) -> None:
    """Raise UserError unless the array has the shape (T,) or (T, channels)."""
    if array.ndim not in (1, 2) or not array.size:
        batch = "; of a batch a list of arrays, or encode_batch" if array.ndim > 2 else ""
        raise UserError(
            f"{name}: samples of shape {array.shape}; give (T,) or (T, channels), not empty{batch}"
        )


def scaled(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return integers scaled to -1..1 (unsigned ones around their middle), floats as they are.

    Args:
        array: samples.
        name: what messages call them.

    Raises:
        UserError: they are no numbers, or of a type whose full scale no recording has.
    """
    if array.dtype.kind not in "fiu":
        raise UserError(f"{name}: samples of type {array.dtype}; give numbers")
    if array.dtype.kind == "f":
        return array
    if array.dtype.itemsize == 8:
        raise UserError(
            f"{name}: samples of type {array.dtype}, whose full scale is not known; give int16"
            " (samples.astype(np.int16)), or floats in -1..1"
        )
    full_scale = 2.0 ** (8 * array.dtype.itemsize - 1)
    offset = 1.0 if array.dtype.kind == "u" else 0.0
    return np.asarray(array / full_scale - offset)
