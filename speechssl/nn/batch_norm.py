"""BatchNorm of (B, F, C) in one pass, exact on padded batches."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.frames import _PART, precise

_FEW_ROWS, _MANY_ROWS = 1 << 10, 1 << 16


def batch_norm(norm: nn.Module, rows: Tensor) -> Tensor:
    """Apply `norm` (1-d, 2-d or converted to `nn.SyncBatchNorm`) to `rows` (N, C).

    On a CPU, torch adds up the statistics of rows one after the other in float32: the deviation of
    60,000 rows is off by 2e-4, which training in float32 sees and SpeechBrain's layout does not
    have. There the statistics are taken apart, in parts. In bfloat16 rounding hides that for all
    but very many rows.
    """
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        return norm(rows)
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    if norm.training:
        cast(Tensor, norm.num_batches_tracked).add_(1)
    momentum = 0.1 if norm.momentum is None else norm.momentum
    if not (norm.training and rows.device.type == "cpu" and _many(rows)):
        return F.batch_norm(
            rows, mean, variance, norm.weight, norm.bias, norm.training, momentum, norm.eps
        )
    y, batch_mean, batch_variance = _Normalise.apply(rows, norm.weight, norm.bias, norm.eps)
    mean.lerp_(batch_mean, momentum)
    variance.lerp_(batch_variance * (rows.shape[0] / (rows.shape[0] - 1)), momentum)
    return y


def _many(rows: Tensor) -> bool:
    return rows.shape[0] > (
        _MANY_ROWS if rows.dtype in (torch.float16, torch.bfloat16) else _FEW_ROWS
    )


class _Normalise(torch.autograd.Function):
    """Batch norm of rows (N, C) in training, with exact statistics: the rows, their mean and
    variance.
    """

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
            gradient.contiguous(),
            rows,
            weight,
            None,
            None,
            mean,
            scale,
            True,
            ctx.eps,
            [True, True, True],
        )
        return grads[0], grads[1], grads[2], None


def normalise(norm: nn.Module, x: Tensor, mask: Tensor | None = None, relu: bool = False) -> Tensor:
    """Batch norm over the last dimension of `x` (B, F, ..., C), then a rectifier if asked.

    With a `mask` (B, F) only valid frames count in training, and the padding of the result is zero.
    """
    chosen = x if mask is None or not norm.training else x[mask]
    if (
        torch.compiler.is_compiling() and chosen.dim() == 4
    ):  # export cannot follow its maps into rows
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
