"""Channels-last building blocks that the encoders share: frame masks, convolutions over time, batch norm.

Everything here works on `(B, F, C)`: batch, frames, channels. Sub-module names are SpeechBrain's
(`conv.conv.weight`, `norm.norm.weight`, ...), so that weights go both ways by name and shape.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TDNN", "BatchNorm", "Convolution", "Frames", "normalise", "precise"]


_PART = 1 << 18  # elements worked on at a time on a CPU: 1 MB in float32, which stays in the cache
_FEW_ROWS, _MANY_ROWS = 1 << 10, 1 << 16


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
        self.device = device
        self.batch = batch
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
                lengths = torch.full((self.batch,), self.frames, device=self.device)
            position = torch.arange(-pad, self.frames + pad, device=self.device)[None, :]
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


def batch_norm(norm: nn.Module, rows: Tensor) -> Tensor:
    """Apply `norm` (1-d, 2-d or converted to `nn.SyncBatchNorm`) to `rows` (N, C).

    On a CPU, torch adds up the statistics of rows one after the other in float32: the deviation of 60,000
    rows is off by 2e-4, which training in float32 sees and SpeechBrain's layout does not have. There the
    statistics are taken apart, in parts. In bfloat16 rounding hides that for all but very many rows.
    """
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        return norm(rows)
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    if norm.training:
        cast(Tensor, norm.num_batches_tracked).add_(1)
    momentum = 0.1 if norm.momentum is None else norm.momentum
    if not (norm.training and rows.device.type == "cpu" and _many(rows)):
        return F.batch_norm(rows, mean, variance, norm.weight, norm.bias, norm.training, momentum, norm.eps)
    y, batch_mean, batch_variance = _Normalise.apply(rows, norm.weight, norm.bias, norm.eps)
    mean.lerp_(batch_mean, momentum)
    variance.lerp_(batch_variance * (rows.shape[0] / (rows.shape[0] - 1)), momentum)
    return y


def _many(rows: Tensor) -> bool:
    return rows.shape[0] > (_MANY_ROWS if rows.dtype in (torch.float16, torch.bfloat16) else _FEW_ROWS)


class _Normalise(torch.autograd.Function):
    """Batch norm of rows (N, C) in training, with exact statistics: the rows, their mean and variance."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, wide = rows.shape[0], precise(rows.dtype)
        parts = rows.split(max(1, _PART // rows.shape[1]))
        mean = torch.stack([part.sum(0, dtype=wide) for part in parts]).sum(0) / count
        squares = [(part - mean).square_().sum(0) for part in parts]
        variance = torch.stack(squares).sum(0) / count
        y = torch.native_batch_norm(rows, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(rows, weight, mean, (variance + eps).rsqrt())
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, weight, mean, scale = ctx.saved_tensors
        grads = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(), rows, weight, None, None, mean, scale, True, ctx.eps, [True, True, True]
        )
        return grads[0], grads[1], grads[2], None


def normalise(norm: nn.Module, x: Tensor, mask: Tensor | None = None, relu: bool = False) -> Tensor:
    """Batch norm over the last dimension of `x` (B, F, ..., C), then a rectifier if asked.

    With a `mask` (B, F) only valid frames count in training, and the padding of the result is zero.
    """
    chosen = x if mask is None or not norm.training else x[mask]
    if torch.compiler.is_compiling() and chosen.dim() == 4:  # export cannot follow its maps into rows
        y = norm(chosen.movedim(-1, 1)).movedim(1, -1)
        y = torch.relu(y) if relu else y
    else:
        y = batch_norm(norm, chosen.reshape(-1, x.shape[-1]))
        y = (y.relu_() if relu else y).view(chosen.shape)
    if mask is None:
        return y
    if norm.training:
        return torch.zeros_like(x).index_put((mask,), y)
    return y.masked_fill(~mask.view(*mask.shape, *(1,) * (x.dim() - 2)), 0.0)


class BatchNorm(nn.Module):
    """Batch norm over the last dimension of (B, C) or (B, F, C), under SpeechBrain's name `norm`.

    `norm` is an ordinary `nn.BatchNorm1d`, so that it can be converted to `nn.SyncBatchNorm`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return normalise(self.norm, x, mask if self.training else None)


class TDNN(nn.Module):
    """Convolution, ReLU, batch norm: SpeechBrain's order."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Convolution(inputs, outputs, kernel, dilation)
        self.norm = BatchNorm(outputs)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        return self.norm(self.conv(x, frames, relu=True), frames.mask)
