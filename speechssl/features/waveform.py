"""Waveforms as they are, for encoders that take samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.interfaces import FrontEnd
from speechssl.nn.frames import Frames

MAX_RATE = 1_000_000
"""Hz; far beyond any use: a model folder may be somebody else's."""

_ADDED_VARIANCE = 1e-7  # that of transformers' Wav2Vec2FeatureExtractor


class Waveform(FrontEnd):
    """Each sample is a frame of one number.

    Args:
        sample_rate: sampling rate of the waveforms, Hz.
        normalise: "utterance" subtracts the mean of the utterance's samples and divides by their
            standard deviation (wav2vec 2.0, where its `do_normalize` is true); "none" leaves
            samples in -1..1.

    Raises:
        UserError: a setting is out of its range.
    """

    def __init__(
        self, *, sample_rate: int = 16000, normalise: Literal["none", "utterance"] = "none"
    ) -> None:
        super().__init__()
        if not 0 < sample_rate <= MAX_RATE:
            raise UserError(f"features: sample_rate={sample_rate} must be 1 to {MAX_RATE}")
        self.sample_rate = sample_rate
        self.normalise = normalise
        self.dim = 1
        self.frames_per_second = float(sample_rate)

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return samples (B, T, 1) of waves (B, T), and how many count in each row, (B,)."""
        frames = Frames.of(waves, lengths)
        samples = frames.zero_padding(waves.float())
        counts = frames.lengths
        if counts is None:
            counts = torch.full((waves.shape[0],), waves.shape[1], device=waves.device)
        counts = counts.to(torch.int64)
        if self.normalise == "utterance":
            count = counts[:, None]
            mean = samples.sum(1, keepdim=True) / count
            centred = frames.zero_padding(samples - mean)
            variance = centred.square().sum(1, keepdim=True) / count
            samples = centred * torch.rsqrt(variance + _ADDED_VARIANCE)
        return samples[:, :, None], counts


PART = Waveform
