"""What users hand over in Python, checked: arrays of samples, lengths, names of devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.embed.batches import Samples
from speechssl.errors import UserError

MOST_CHANNELS = 64  # an array with more columns than this is taken for (channels, T)


def find_device(name: str) -> torch.device:
    """The device of that name (``auto``: a GPU where there is one); UserError if there is none such
    here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"embed: device {name!r} cannot be used ({reason}); use --device cpu"
        ) from error
    return device


def in_samples(lengths: Tensor, waves: Tensor) -> Tensor:
    """Lengths (B,) int64 in samples, from samples or relative ones."""
    batch, longest = waves.shape
    if lengths.shape != (batch,):
        raise UserError(
            f"encode_batch: {tuple(lengths.shape)} lengths for {batch} waveforms; give one each"
        )
    samples = (
        (lengths.double() * longest).round().long()
        if lengths.is_floating_point()
        else lengths.long()
    )
    if int(samples.min()) < 1 or int(samples.max()) > longest:
        raise UserError(
            f"encode_batch: lengths must be samples from 1 to {longest} (integers) or relative,"
            f" above 0 and up to 1 (floats); got {lengths.tolist()}"
        )
    return samples


def mono_wave(samples: Any, source: int | None, rate: int, name: str) -> Samples:
    """Mono float32 (T,) at `rate` Hz from an array (T,) or (T, channels) at `source` Hz, or
    UserError.
    """
    array = np.asarray(samples)
    if source is None or not source > 0:
        raise UserError(f"{name}: an array needs its sampling rate in Hz, got rate={source!r}")
    if array.dtype.kind not in "fiu":
        raise UserError(f"{name}: samples of type {array.dtype}; give numbers")
    if array.ndim not in (1, 2) or not array.size:
        raise UserError(
            f"{name}: samples of shape {array.shape}; give (T,) or (T, channels), not empty"
        )
    if array.ndim == 2 and array.shape[1] > max(MOST_CHANNELS, array.shape[0]):
        raise UserError(
            f"{name}: samples of shape {array.shape} look like (channels, T); transpose them to (T,"
            " channels)"
        )
    if array.dtype.kind in "iu":
        half = 2.0 ** (8 * array.dtype.itemsize - 1)
        array = array / half - (1.0 if array.dtype.kind == "u" else 0.0)
    wave = np.asarray(array if array.ndim == 1 else array.mean(axis=1), dtype=np.float32)
    if not np.isfinite(wave).all():
        raise UserError(f"{name}: holds NaN or infinite samples; repair or leave it out")
    if source != rate:
        import soxr

        wave = np.asarray(soxr.resample(wave, source, rate, quality="HQ"), dtype=np.float32)
    if not len(wave):
        raise UserError(f"{name}: is empty after resampling to {rate} Hz; leave it out")
    return wave
