"""BatchNorm over the last dimension, blind to padding: (B, F, C) or (B, F, M, C)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from speechssl.nn.frames import accumulation_dtype

__all__ = ["BatchNorm", "NoNorm", "batch_norm", "hold_running_statistics", "normalise"]

# worked on at a time on a CPU: 1 MB in float32, which stays in the cache
_BLOCK_ELEMENTS = 1 << 18
_MANY_ROWS = 1 << 10
_MANY_ROWS_IN_HALF_PRECISION = 1 << 16


def batch_norm(norm: nn.Module, rows: Tensor) -> Tensor:
    """Normalise `rows` (N, C) by `norm`, and update its running statistics in training.

    On a CPU, torch adds up the statistics of rows one after the other in float32: the
    deviation of 60,000 rows is off by 2e-4, which training in float32 sees and
    SpeechBrain's layout does not have. There the statistics are summed block by block.
    In bfloat16 rounding hides that for all but very many rows.

    Args:
        norm: `nn.BatchNorm1d`, `nn.BatchNorm2d`, or what they were converted to in
            order to share statistics between processes, which is called as it is.
        rows: (N, C).
    """
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        converted: Tensor = norm(rows)
        return converted
    running_mean = cast(Tensor, norm.running_mean)
    running_variance = cast(Tensor, norm.running_var)
    momentum = 0.1 if norm.momentum is None else norm.momentum
    if norm.training:
        cast(Tensor, norm.num_batches_tracked).add_(1)
    if not (norm.training and _needs_exact_sums(rows)):
        return F.batch_norm(
            rows,
            running_mean,
            running_variance,
            norm.weight,
            norm.bias,
            norm.training,
            momentum,
            norm.eps,
        )
    y: Tensor
    y, mean, variance = _ExactBatchNorm.apply(  # type: ignore[no-untyped-call]
        rows, norm.weight, norm.bias, norm.eps
    )
    count = rows.shape[0]
    # Through `data`: an earlier pass with few rows went to F.batch_norm, which keeps the running
    # statistics for its backward pass (without using them there) and would find them changed.
    running_mean.data.lerp_(mean, momentum)
    running_variance.data.lerp_(variance * (count / (count - 1)), momentum)
    return y


def _needs_exact_sums(rows: Tensor) -> bool:
    """True if torch's statistics of `rows` (N, C) would be off (see `batch_norm`)."""
    if rows.device.type != "cpu":
        return False
    if rows.dtype in (torch.float16, torch.bfloat16):
        return rows.shape[0] > _MANY_ROWS_IN_HALF_PRECISION
    return rows.shape[0] > _MANY_ROWS


class _ExactBatchNorm(torch.autograd.Function):
    """BatchNorm of rows (N, C) in training; also gives their mean and variance."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, channels = rows.shape
        dtype = accumulation_dtype(rows.dtype)
        blocks = torch.split(rows, max(1, _BLOCK_ELEMENTS // channels))
        sums = [block.sum(0, dtype=dtype) for block in blocks]
        mean = torch.stack(sums).sum(0) / count
        squares = [(block - mean).square_().sum(0) for block in blocks]
        variance = torch.stack(squares).sum(0) / count
        y = torch.native_batch_norm(rows, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(rows, weight, mean, (variance + eps).rsqrt())
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, weight, mean, inverse_deviation = ctx.saved_tensors
        d_rows, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(),
            rows,
            weight,
            None,  # running mean
            None,  # running variance
            mean,
            inverse_deviation,
            True,  # in training
            ctx.eps,
            [True, True, True],
        )
        return d_rows, d_weight, d_bias, None


def hold_running_statistics(module: nn.Module) -> None:
    """Let every BatchNorm in `module` normalise by its running statistics, which stay as they are.

    They are put into evaluation mode; `module.train()` ends it.
    """
    for inner in module.modules():
        if isinstance(inner, _BatchNorm):
            inner.eval()


def normalise(norm: nn.Module, x: Tensor, mask: Tensor | None = None, relu: bool = False) -> Tensor:
    """Apply BatchNorm over the last dimension of `x`, then ReLU if asked.

    Args:
        norm: see `batch_norm`.
        x: (B, ..., C).
        mask: (B, F), True for valid frames of `x` (B, F, ..., C). Only these count in
            training, and the padding of the result is zero. None: all frames count.
        relu: rectify the result.
    """
    if mask is None:
        return _normalise_last(norm, x, relu)
    if norm.training:
        valid = _normalise_last(norm, x[mask], relu)
        return torch.zeros_like(x).index_put((mask,), valid)
    y = _normalise_last(norm, x, relu)
    return y.masked_fill(~mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0.0)


def _normalise_last(norm: nn.Module, x: Tensor, relu: bool) -> Tensor:
    """Apply BatchNorm over the last dimension of `x` (..., C), then ReLU if asked."""
    y: Tensor
    if torch.compiler.is_compiling() and x.dim() == 4:  # torch.export cannot view maps as rows
        y = norm(x.movedim(-1, 1)).movedim(1, -1)
        return torch.relu(y) if relu else y
    y = batch_norm(norm, x.reshape(-1, x.shape[-1]))
    if relu:
        y = y.relu_()
    return y.view(x.shape)


class NoNorm(nn.Module):
    """Stands where a network has no BatchNorm: gives what it takes."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `x`."""
        return x


class BatchNorm(nn.Module):
    """BatchNorm over the last dimension of (B, C) or (B, F, C), under SpeechBrain's name `norm`.

    `norm` is an ordinary `nn.BatchNorm1d`, so that it can be converted to
    `nn.SyncBatchNorm`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise `x`; in training only the frames of `mask` (B, F) count (None: all)."""
        return normalise(self.norm, x, mask if self.training else None)
