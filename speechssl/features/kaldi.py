"""Kaldi's fbank with mean subtraction, the front end of wespeaker and 3D-Speaker.

Equal to `torchaudio.compliance.kaldi.fbank` and to kaldi-native-fbank without dither and with
`snip_edges`: frames are neither padded nor centred.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.features.logmel import LogMel

MAX_SCALE = 1e6
"""Far beyond any use: a model folder may be somebody else's."""

_SMALLEST_ENERGY = torch.finfo(torch.float32).eps
"""Energies below it are raised to it before the logarithm, as Kaldi does."""


class Kaldi(LogMel):
    """Kaldi's log-mel filterbank energies.

    Each frame loses its mean, is filtered by x[t] - a x[t-1] (its first sample by itself), windowed,
    and padded with zeros to a power of two. Triangles of height 1 are straight over the mel scale.

    Args:
        sample_rate: sampling rate of the waveforms, Hz.
        frame_length: length of a frame, seconds.
        frame_shift: from the start of a frame to the start of the next, seconds.
        n_mels: number of mel bands M.
        f_min: lower edge of the first band, Hz.
        f_max: upper edge of the last band, Hz; none: half the sampling rate.
        window_type: "povey" (Kaldi's default, and 3D-Speaker) or "hamming" (wespeaker); "hann" is
            periodic here.
        preemphasis: coefficient a; 0 = off.
        scale: factor of the samples, which are in -1..1 here: 32768 for Kaldi and wespeaker, which
            take 16-bit numbers; 1 for 3D-Speaker.
        normalise: "mean" subtracts each band's mean over the frames of the utterance, as wespeaker
            and 3D-Speaker do; "none" keeps it.

    Raises:
        UserError: a setting is out of its range.
    """

    RENAMED: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        frame_length: float = 0.025,
        frame_shift: float = 0.010,
        n_mels: int = 80,
        f_min: float = 20.0,
        f_max: float | None = None,
        window_type: Literal["povey", "hamming", "hann"] = "povey",
        preemphasis: float = 0.97,
        scale: float = 32768.0,
        normalise: Literal["mean", "none"] = "mean",
    ) -> None:
        if not 0 < scale <= MAX_SCALE:
            raise UserError(f"features: scale={scale} must be above 0 and at most {MAX_SCALE:g}")
        if normalise not in ("mean", "none"):
            raise UserError(f"features: unknown normalise={normalise!r}; choose mean|none")
        super().__init__(
            sample_rate=sample_rate,
            frame_length=frame_length,
            frame_shift=frame_shift,
            n_mels=n_mels,
            f_min=f_min,
            f_max=sample_rate / 2 if f_max is None else f_max,
            normalise=normalise,
            window_type=window_type,
            preemphasis=preemphasis,
            remove_dc_offset="frame",
            filter_scale="mel",
        )
        self.scale = scale

    def logarithm(self, energies: Tensor) -> Tensor:
        """Return log energies of samples in units of `scale`, at least Kaldi's smallest one."""
        return (energies * self.scale**2).clamp(min=_SMALLEST_ENERGY).log()


PART = Kaldi
