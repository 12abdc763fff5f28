"""Pooling over frames: mean and standard deviation of each channel, plain or under attention, in
    float32.

The pooled maps are the largest tensors of an encoder, and most of what is done with them is
element-wise. `_Moments` therefore works through a batch in parts that stay in the processor's cache
and keeps nothing for the backward pass but its inputs. Attention computes one weight per frame and
channel; its global context (the utterance's mean and standard deviation beside each frame) enters
as a bias of each utterance rather than as a threefold concatenation, which is the same function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.convolution import TDNN, Convolution
from speechssl.nn.frames import Frames, precise

__all__ = ["AttentiveStatistics", "statistics"]

_PART = 1 << 20  # elements worked on at a time on a CPU: 4 MB in float32


def statistics(
    x: Tensor, frames: Frames, logits: Tensor | None = None, floor: float = 1e-12
) -> Tensor:
    """Mean and standard deviation over the valid frames of `x` (B, F, C): (B, 2C), float32.

    With `logits` (B, F, C) frames are weighted by their softmax over the valid frames, otherwise
    alike. `floor` is the smallest variance; below it there is no gradient.
    """
    if frames.mask is not None and logits is not None:
        logits = logits.masked_fill(~frames.mask[:, :, None], float("-inf"))
    uniform = None if logits is not None else _uniform(frames, x)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        mean, variance = _moments(x, _weights(logits, uniform, x))
    else:
        mean, variance = _Moments.apply(x, logits, uniform)
    return torch.cat([mean, variance.clamp(min=floor).sqrt()], 1)


def _uniform(frames: Frames, x: Tensor) -> Tensor:
    """Weights (B, F, 1) alike for all valid frames."""
    if frames.mask is None or frames.lengths is None:
        return x.new_full((), 1 / x.shape[1], dtype=precise(x.dtype)).expand(
            x.shape[0], x.shape[1], 1
        )
    return (frames.mask / frames.lengths[:, None])[:, :, None].to(precise(x.dtype))


def _weights(logits: Tensor | None, uniform: Tensor | None, x: Tensor) -> Tensor:
    if uniform is not None:
        return uniform
    assert logits is not None
    return logits.softmax(1, dtype=precise(x.dtype))


def _moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, C) of `x` (B, F, C) under `weights` that sum to one over F."""
    x = x.to(precise(x.dtype))
    mean = (weights * x).sum(1)
    return mean, (weights * (x - mean[:, None]).square()).sum(1)


class _Moments(torch.autograd.Function):
    """`_moments` under softmax of `logits` or `uniform` weights, part by part, recomputing in
    backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, logits: Tensor | None, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        means, variances = [], []
        for part, part_logits, part_uniform in _parts(x, logits, uniform):
            mean, variance = _moments(part, _weights(part_logits, part_uniform, part))
            means.append(mean)
            variances.append(variance)
        mean, variance = torch.cat(means), torch.cat(variances)
        ctx.save_for_backward(x, logits, uniform, mean, variance)
        return mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(
        ctx: Any, d_mean: Tensor, d_variance: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        x, logits, uniform, mean, variance = ctx.saved_tensors
        dx, d_logits = torch.empty_like(x), None if logits is None else torch.empty_like(logits)
        start = 0
        for part, part_logits, part_uniform in _parts(x, logits, uniform):
            now = slice(start, start + part.shape[0])
            start = now.stop
            weights = _weights(part_logits, part_uniform, part)
            deviation = part - mean[now, None]
            slope = deviation * d_variance[now, None]
            if d_logits is not None:
                gain = (slope + d_mean[now, None]).mul_(deviation)
                d_logits[now] = gain.sub_((d_variance[now] * variance[now])[:, None]).mul_(weights)
            dx[now] = slope.mul_(2).add_(d_mean[now, None]).mul_(weights)
        return dx, d_logits, None


def _parts(
    x: Tensor, logits: Tensor | None, uniform: Tensor | None
) -> list[tuple[Tensor, Tensor | None, Tensor | None]]:
    """The batch in parts of utterances: small on a CPU, whole elsewhere."""
    size = max(1, _PART // (x.shape[1] * x.shape[2])) if x.device.type == "cpu" else x.shape[0]
    xs = x.split(size)
    none: list[None] = [None] * len(xs)
    return list(
        zip(
            xs,
            none if logits is None else logits.split(size),
            none if uniform is None else uniform.split(size),
            strict=True,
        )
    )


class AttentiveStatistics(nn.Module):
    """Channel-dependent attentive statistics pooling of ECAPA-TDNN (Desplanques et al. 2020,
    section 3.1).
    """

    def __init__(self, channels: int, attention: int = 128, global_context: bool = True) -> None:
        super().__init__()
        self.global_context = global_context
        self.tdnn = TDNN(channels * 3 if global_context else channels, attention)
        self.conv = Convolution(attention, channels)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Pool `x` (B, F, C) to mean and standard deviation (B, 2C), float32."""
        hidden = self.tdnn.norm(torch.relu(self._project(x, frames)), frames.mask)
        return statistics(x, frames, self.conv(torch.tanh(hidden)))

    def _project(self, x: Tensor, frames: Frames) -> Tensor:
        if not self.global_context:
            return self.tdnn.conv(x)
        weight, bias = self.tdnn.conv.conv.weight.flatten(1), self.tdnn.conv.conv.bias
        channels = x.shape[2]
        local = F.linear(x, weight[:, :channels], bias)
        return local + F.linear(statistics(x, frames), weight[:, channels:])[:, None]
