"""What the exporters share: a model that takes waveforms and needs no FFT, and the comparison.

Not every runtime has an FFT; all of them have convolutions. So the spectra of
log-mels are products with sinusoids here. All else is the model's own, and other front ends are
exported as they are.
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

COMPARED = ((1.0, 1), (3.7, 3))
"""Inputs that are compared after an export: seconds, and utterances in the batch."""

TOLERANCE = 1e-4
"""Largest difference of two embeddings, relative to the largest number in them."""


class Spectra(nn.Module):
    """Log-mel energies (B, F, M) of samples (B, T), not normalised, without an FFT.

    T is at least one window. With windowed cosines and sines as the kernels of a convolution, its
    outputs are the real and imaginary parts of the spectrum.
    """

    kernel: Tensor
    filters: Tensor

    def __init__(self, features: LogMel) -> None:
        super().__init__()
        time = torch.arange(features.win_length, dtype=torch.float64)
        bins = torch.arange(features.n_fft // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi / features.n_fft * bins[:, None] * time
        sinusoids = torch.cat([angle.cos(), angle.sin()])
        kernel = sinusoids * features.window.double()
        self.preemphasis = features.preemphasis
        self.removes_mean = features.remove_dc_offset == "utterance"
        if features.remove_dc_offset == "frame":
            kernel = kernel @ _frame_filter(features.win_length, features.preemphasis)
            self.preemphasis = 0.0
        self.register_buffer("kernel", kernel.float()[:, None])
        self.register_buffer("filters", features.filters.clone())
        self.logarithm = features.logarithm
        self.hop = features.hop_length

    def forward(self, waves: Tensor) -> Tensor:
        """Return log-mel energies (B, F, M) of samples (B, T)."""
        if self.removes_mean:
            waves = waves - waves.mean(dim=1, keepdim=True)
        if self.preemphasis:
            filtered = waves[:, 1:] - self.preemphasis * waves[:, :-1]
            waves = torch.cat([waves[:, :1], filtered], dim=1)
        spectrum = F.conv1d(waves[:, None], self.kernel, stride=self.hop).transpose(1, 2)
        real, imaginary = spectrum.chunk(2, dim=2)
        power = real.square() + imaginary.square()
        return self.logarithm(power @ self.filters)


def _frame_filter(samples: int, preemphasis: float) -> Tensor:
    """Return the matrix (T, T) that subtracts a frame's mean and then applies pre-emphasis."""
    identity = torch.eye(samples, dtype=torch.float64)
    previous = torch.cat([identity[:1], identity[:-1]])
    return (identity - preemphasis * previous) @ (identity - 1.0 / samples)


class Waveforms(nn.Module):
    """Embeddings (B, D) of samples (B, T), equally long, at the model's sampling rate."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.front_end = model.front_end
        self.encoder = model.encoder
        self.spectra: Spectra | None = None
        if isinstance(self.front_end, LogMel):
            self.spectra = Spectra(self.front_end)

    def forward(self, waves: Tensor) -> Tensor:
        """Return embeddings (B, D) of samples (B, T)."""
        if self.spectra is not None:
            log_mel = cast(LogMel, self.front_end)
            features = log_mel.normalised(self.spectra(waves))
        else:
            features, _ = self.front_end(waves)
        return cast(Tensor, self.encoder(features))


def example(model: Model, seconds: float, batch: int = 2) -> Tensor:
    """Return noise (batch, seconds * rate) whose level rises and falls; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    samples = round(seconds * model.sample_rate)
    level = torch.linspace(0, 9, samples).sin() + 1.1
    return 0.05 * level * torch.randn(batch, samples, generator=generator)


def compare(model: Model, run: Callable[[Tensor], Tensor], what: str) -> str:
    """Compare an export with the model, at two lengths and batch sizes.

    Args:
        model: what was exported.
        run: runs the export: samples (B, T) to embeddings (B, D).
        what: the export, for the message.

    Returns:
        A line with the largest difference, relative to the largest number of an embedding.

    Raises:
        UserError: the difference is above `TOLERANCE`, or the export does not run on one of them.
    """
    largest = 0.0
    with torch.no_grad():
        for seconds, batch in COMPARED:
            waves = example(model, seconds, batch)
            expected = model(waves)
            difference = (_embeddings(run, waves, model, what) - expected).abs().max()
            difference = difference / expected.abs().max()
            largest = max(largest, float(difference))
            if not largest <= TOLERANCE:  # also true for NaN
                raise UserError(
                    f"{what}: its embeddings differ from the model's by {float(difference):.1e};"
                    " do not use it"
                )
    return f"{what}: embeddings equal the model's, largest difference {largest:.0e}"


def _embeddings(run: Callable[[Tensor], Tensor], waves: Tensor, model: Model, what: str) -> Tensor:
    try:
        return run(waves)
    except Exception as error:  # sizes that the export took for constants
        name = model.settings["features"]["name"]
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(
            f"{what}: does not run on {waves.shape[0]} utterances of {waves.shape[1]} samples"
            f" ({reason}); this format cannot express the front end {name!r} or the encoder for"
            " any batch and length: choose another"
        ) from error
