"""The model as other runtimes take it: waveforms in, embeddings out, spectra as products with
    sinusoids.

Not every runtime has an FFT; all of them have convolutions. Log-mels are otherwise computed as
`LogMel` does; other front ends are exported as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.features.logmel import LogMel
from speechssl.model import Model

SECONDS = 1.0
"""Shortest input that is tried after an export."""
_TOLERANCE = 1e-4


class Spectra(nn.Module):
    """(B, T) samples to (B, F, M) log-mel energies, not normalised; T is at least one window."""

    kernel: Tensor
    filters: Tensor

    def __init__(self, features: LogMel) -> None:
        super().__init__()
        time = torch.arange(features.win_length, dtype=torch.float64)
        bins = torch.arange(features.n_fft // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi / features.n_fft * bins[:, None] * time
        waves = torch.cat([angle.cos(), angle.sin()]) * features.window.double()
        self.register_buffer("kernel", waves.float()[:, None])
        self.register_buffer("filters", features.filters.clone())
        self.preemphasis, self.floor, self.hop = (
            features.preemphasis,
            features.floor,
            features.hop_length,
        )

    def forward(self, waves: Tensor) -> Tensor:
        if self.preemphasis:
            waves = torch.cat(
                [waves[:, :1], waves[:, 1:] - self.preemphasis * waves[:, :-1]], dim=1
            )
        cosines, sines = (
            F.conv1d(waves[:, None], self.kernel, stride=self.hop).transpose(1, 2).chunk(2, dim=2)
        )
        return ((cosines.square() + sines.square()) @ self.filters + self.floor).log()


class Waveforms(nn.Module):
    """(B, T) samples at the model's rate, all of them valid, to embeddings (B, D)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.front_end = model.front_end
        self.spectra = Spectra(model.front_end) if isinstance(model.front_end, LogMel) else None
        self.encoder = model.encoder

    def forward(self, waves: Tensor) -> Tensor:
        if isinstance(self.front_end, LogMel) and self.spectra is not None:
            features = self.front_end.normalised(self.spectra(waves))
        else:
            features, _ = self.front_end(waves)
        return cast(Tensor, self.encoder(features))


def example(model: Model, seconds: float, batch: int = 2) -> Tensor:
    """(batch, seconds * rate) noise whose level rises and falls, the same each time."""
    generator = torch.Generator().manual_seed(0)
    samples = round(seconds * model.sample_rate)
    swell = torch.linspace(0, 9, samples).sin() + 1.1
    return 0.05 * swell * torch.randn(batch, samples, generator=generator)


def compare(model: Model, run: Callable[[Tensor], Tensor], what: str) -> str:
    """Run an export on two lengths and batch sizes and compare it with the model: a line with the
        difference.

    The difference is relative to the largest number of an embedding. Raises UserError if it is
    above 1e-4.
    """
    worst = 0.0
    with torch.no_grad():
        for seconds, batch in ((SECONDS, 1), (3.7, 3)):
            waves = example(model, seconds, batch)
            expected = model(waves)
            worst = max(worst, float((run(waves) - expected).abs().max() / expected.abs().max()))
    if not worst <= _TOLERANCE:
        raise UserError(
            f"{what}: its embeddings differ from the model's by {worst:.1e}; do not use it"
        )
    return f"{what}: embeddings as the model's, largest difference {worst:.0e}"
