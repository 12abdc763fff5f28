"""Analysis windows and mel filters, for front ends."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from speechssl.errors import UserError

WindowType = Literal["hann", "povey", "hamming"]
FilterScale = Literal["hertz", "mel", "symmetric"]

MAX_FILTERS = 1 << 22
"""Numbers of the filters, far beyond any use: a model folder may be somebody else's."""


def analysis_window(kind: WindowType | Literal["periodic_hamming"], length: int) -> Tensor:
    """Return a window (length,) in float32.

    Args:
        kind: see `LogMel`'s setting `window_type`; "periodic_hamming" is SpeechBrain's.
        length: samples.
    """
    if kind == "povey":
        return (torch.hann_window(length, periodic=False, dtype=torch.float64) ** 0.85).float()
    if kind == "periodic_hamming":
        return torch.hamming_window(length, periodic=True, dtype=torch.float64).float()
    if kind == "hamming":
        return torch.hamming_window(length, periodic=False, dtype=torch.float64).float()
    return torch.hann_window(length, periodic=True, dtype=torch.float64).float()


def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min: float,
    f_max: float,
    scale: FilterScale = "hertz",
    *,
    fill: bool = True,
) -> Tensor:
    """Return triangular filters of height 1, equally spaced on HTK's mel scale.

    A band too narrow to hold a bin of the FFT (many bands at a low rate) takes the nearest bin, or
    is empty if `fill` is False.

    Args:
        sample_rate: Hz.
        n_fft: samples of the FFT.
        n_mels: number of bands.
        f_min: lower edge of the first band, Hz.
        f_max: upper edge of the last band, Hz.
        scale: on which frequencies the sides of a triangle are straight: "hertz" (librosa's
            filters) or "mel" (Kaldi's). "symmetric": straight over hertz, and the right side as
            wide as the left one (SpeechBrain's).
        fill: give an empty band its nearest bin.

    Returns:
        (n_fft // 2 + 1, n_mels) float32.

    Raises:
        UserError: edges that do not fit, or more than `MAX_FILTERS` numbers.
    """
    if not 0 <= f_min < f_max <= sample_rate / 2:
        raise UserError(
            f"features: f_min={f_min:g} and f_max={f_max:g} Hz do not fit sample_rate="
            f"{sample_rate} Hz; choose 0 <= f_min < f_max <= {sample_rate / 2:g}"
        )
    if (n_fft // 2 + 1) * n_mels > MAX_FILTERS:
        raise UserError(
            f"features: {n_mels} filters for an FFT of {n_fft} samples hold more than {MAX_FILTERS}"
            " numbers; choose a smaller n_mels, frame_length or n_fft"
        )
    edges = torch.linspace(mel(f_min), mel(f_max), n_mels + 2, dtype=torch.float64)
    bins = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    if scale == "mel":
        bins = 2595.0 * (1.0 + bins / 700.0).log10()
    else:
        edges = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    left = edges[:-2]
    centre = edges[1:-1]
    right = edges[2:]
    if scale == "symmetric":
        right = 2 * centre - left
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    empty = torch.nonzero(filters.sum(dim=0) == 0).flatten().tolist()
    for band in empty if fill else []:
        nearest = (bins[:, 0] - centre[band]).abs().argmin()
        filters[nearest, band] = 1.0
    return filters.float()


def mel(frequency: float) -> float:
    """Return a frequency in Hz on HTK's mel scale."""
    return 2595.0 * math.log10(1.0 + frequency / 700.0)
