"""Channels-last building blocks that the encoders share: frame masks, convolutions over time, batch norm.

Everything here works on `(B, F, C)`: batch, frames, channels. Sub-module names are SpeechBrain's
(`conv.conv.weight`, `norm.norm.weight`, ...), so that weights go both ways by name and shape.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TDNN", "BatchNorm", "Convolution", "Frames", "precise"]


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums over frames are taken: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


class Frames:
    """Which frames of a padded batch are real, and where reflection at each utterance's own end leads.

    Built once a forward pass. `lengths` (B,) counts the valid frames; None means that all are, and is
    the fast path: no masks, no gathers.
    """

    def __init__(self, batch: int, frames: int, lengths: Tensor | None, device: torch.device) -> None:
        self.frames = frames
        self.lengths = None if lengths is None else lengths.to(device).clamp(1, frames)
        self.mask: Tensor | None = None
        if self.lengths is not None:
            self.mask = torch.arange(frames, device=device)[None, :] < self.lengths[:, None]
        self._device = device
        self._batch = batch
        self._reflections: dict[int, Tensor] = {}

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the valid frames of `x` (B, F, C): (B, C), float32."""
        if self.mask is None or self.lengths is None:
            return x.mean(1, dtype=precise(x.dtype))
        kept = x.masked_fill(~self.mask[:, :, None], 0.0)
        return kept.sum(1, dtype=precise(x.dtype)) / self.lengths[:, None]

    def pad(self, x: Tensor, pad: int) -> Tensor:
        """Reflect `x` (B, F, C) about its first and last valid frame: (B, F + 2 * pad, C)."""
        if self.lengths is None and self.frames > pad:
            head = x[:, 1 : pad + 1].flip(1)
            tail = x[:, self.frames - pad - 1 : self.frames - 1].flip(1)
            return torch.cat([head, x, tail], 1)
        index = self._reflection(pad)
        return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))

    def _reflection(self, pad: int) -> Tensor:
        """Frame that each of the F + 2 * pad positions repeats, (B, F + 2 * pad); short utterances bounce."""
        if pad not in self._reflections:
            lengths = self.lengths
            if lengths is None:
                lengths = torch.full((self._batch,), self.frames, device=self._device)
            position = torch.arange(-pad, self.frames + pad, device=self._device)[None, :]
            last = (lengths - 1)[:, None]
            period = (2 * last).clamp(min=1)
            position = position.remainder(period)
            self._reflections[pad] = torch.minimum(position, period - position).minimum(last)
        return self._reflections[pad]


class Convolution(nn.Module):
    """Convolution over frames with reflected ends, on (B, F, C).

    The parameters are those of `nn.Conv1d` (same names, shapes and initialisation); its forward pass,
    which wants (B, C, F), is never used. A kernel of one frame is a matrix product; a wider one (odd) is
    a channels-last 2-d convolution over a map one row high, which was the fastest of the forms measured
    (against shifted copies and one product, and one product a tap), forward and backward, fp32 and bf16.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.kernel = kernel
        self.dilation = dilation

    def forward(self, x: Tensor, frames: Frames | None = None, relu: bool = False) -> Tensor:
        """Map `x` (B, F, inputs), or (B, inputs) for kernel 1, to as many frames of `outputs` channels.

        `relu` applies a rectifier in place, before the result is viewed in its final shape.
        """
        weight, bias = self.conv.weight, self.conv.bias
        if self.kernel == 1:
            y = F.linear(x.reshape(-1, x.shape[-1]), weight.flatten(1), bias)
            return (y.relu_() if relu else y).view(*x.shape[:-1], -1)
        if frames is None:
            raise ValueError("a kernel wider than one frame needs to know where utterances end")
        padded = frames.pad(x, self.dilation * (self.kernel - 1) // 2)
        rows = padded[:, None].permute(0, 3, 1, 2)
        y = F.conv2d(rows, weight[:, :, None], bias, dilation=(1, self.dilation))
        return (y.relu_() if relu else y).permute(0, 2, 3, 1)[:, 0]


class BatchNorm(nn.Module):
    """Batch norm over the last dimension of (B, C) or (B, F, C).

    In training with lengths, only valid frames count. `norm` is an ordinary `nn.BatchNorm1d` and is
    called as one, so that it can be converted to `nn.SyncBatchNorm`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.training and mask is not None:
            out = torch.zeros_like(x)
            out[mask] = self.norm(x[mask])
            return out
        return self.norm(x.reshape(-1, x.shape[-1])).view(x.shape)


class TDNN(nn.Module):
    """Convolution, ReLU, batch norm: SpeechBrain's order."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Convolution(inputs, outputs, kernel, dilation)
        self.norm = BatchNorm(outputs)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        return self.norm(self.conv(x, frames, relu=True), frames.mask)
