"""SpeechBrain's Fbank with sentence normalisation, the front end of its speaker encoders.

Equal to `speechbrain.lobes.features.Fbank` followed by `InputNormalization` over the sentence, for
each utterance alone: frame i is centred on sample i * shift, with zeros on both sides of the
utterance. Energies are in decibels, and those more than `top_db` below the utterance's loudest are
raised to that.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.features.filters import analysis_window, mel_filters
from speechssl.features.logmel import check_bounds
from speechssl.interfaces import FrontEnd

_SMALLEST_ENERGY = 1e-10
MAX_FFT = 1 << 16
"""Far beyond any use: a model folder may be somebody else's."""


class SpeechBrain(FrontEnd):
    """SpeechBrain's log-mel filterbank energies, in decibels.

    Args:
        sample_rate: sampling rate of the waveforms, Hz.
        n_fft: samples of the FFT; none: those of the window.
        frame_length: length of the Hamming window, seconds; at most `n_fft` samples.
        frame_shift: from the centre of a frame to the centre of the next, seconds.
        n_mels: number of mel bands M.
        f_min: lower edge of the first band, Hz.
        f_max: upper edge of the last band, Hz; none: half the sampling rate.
        top_db: range of energies below the utterance's loudest, decibels.
        normalise: "mean" subtracts each band's mean over the frames of the utterance; "none" keeps
            it.

    Raises:
        UserError: a setting is out of its range.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        n_fft: int | None = None,
        frame_length: float = 0.025,
        frame_shift: float = 0.010,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        top_db: float = 80.0,
        normalise: Literal["mean", "none"] = "mean",
    ) -> None:
        super().__init__()
        check_bounds(sample_rate, frame_length, frame_shift, n_mels, preemphasis=0.0, floor=1.0)
        if f_max is None:
            f_max = sample_rate / 2
        if normalise not in ("mean", "none"):
            raise UserError(f"features: unknown normalise={normalise!r}; choose mean|none")
        if not top_db > 0:
            raise UserError(f"features: top_db={top_db} must be above 0")
        length = round(frame_length * sample_rate)
        self.hop_length = round(frame_shift * sample_rate)
        if n_fft is None:
            n_fft = length
        if length < 2 or self.hop_length < 1 or not length <= n_fft <= MAX_FFT:
            raise UserError(
                f"features: frame_length={frame_length:g} s and frame_shift={frame_shift:g} s are"
                f" {length} and {self.hop_length} samples at {sample_rate} Hz; choose a length"
                f" between 2 and n_fft={n_fft} samples (at most {MAX_FFT}) and a shift of at least 1"
            )
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.dim = n_mels
        self.frames_per_second = sample_rate / self.hop_length
        self.top_db = top_db
        self.normalise = normalise
        window = analysis_window("periodic_hamming", length)
        before = (n_fft - length) // 2
        window = F.pad(window, (before, n_fft - length - before))
        filters = mel_filters(sample_rate, n_fft, n_mels, f_min, f_max, "symmetric")
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the features of a batch; see `FrontEnd.forward`."""
        with torch.autocast(device_type=waves.device.type, enabled=False):
            waves = waves.float()
            padding: Tensor | None = None
            if lengths is not None:
                lengths = lengths.to(waves.device)
                samples = torch.arange(waves.shape[1], device=waves.device)
                waves = waves.masked_fill(samples >= lengths[:, None], 0.0)
            decibels = self._decibels(waves)
            count = decibels.shape[1]
            if lengths is None:
                valid = torch.full((waves.shape[0],), count, device=waves.device)
            else:
                valid = (1 + lengths // self.hop_length).clamp(max=count)
                index = torch.arange(count, device=waves.device)
                padding = (index >= valid[:, None]).unsqueeze(-1)
            return self._normalised(decibels, valid, padding), valid

    def _decibels(self, waves: Tensor) -> Tensor:
        """Return mel energies (B, F, M) of waves (B, T), in decibels."""
        half = self.n_fft // 2
        frames = F.pad(waves, (half, half)).unfold(1, self.n_fft, self.hop_length)
        spectrum = torch.fft.rfft(frames * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        energies: Tensor = power @ self.filters
        return 10.0 * energies.clamp(min=_SMALLEST_ENERGY).log10()

    def _normalised(self, decibels: Tensor, valid: Tensor, padding: Tensor | None) -> Tensor:
        """Limit the range of decibels (B, F, M), and subtract the means if asked.

        Args:
            decibels: with arbitrary values on padded frames.
            valid: (B,) frames that count.
            padding: (B, F, 1), True on padded frames; None: there are none.

        Returns:
            (B, F, M), zero on padded frames.
        """
        counted = decibels
        if padding is not None:
            counted = decibels.masked_fill(padding, -torch.inf)
        loudest = counted.amax(dim=(1, 2), keepdim=True)
        features = torch.maximum(decibels, loudest - self.top_db)
        if padding is not None:
            features = features.masked_fill(padding, 0.0)
        if self.normalise == "none":
            return features
        features = features - features.sum(dim=1, keepdim=True) / valid[:, None, None]
        return features if padding is None else features.masked_fill(padding, 0.0)


PART = SpeechBrain
