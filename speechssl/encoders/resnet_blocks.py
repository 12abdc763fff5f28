"""The blocks of the ResNet encoders (`resnet.py`), channels last.

Maps are (B, F, M, C): batch, frames, frequencies, channels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from speechssl.nn.batch_norm import normalise
from speechssl.nn.frames import Frames, accumulation_dtype
from speechssl.nn.maps import convolve_maps


class PreactivatedBlock(nn.Module):
    """Three times BatchNorm, ReLU, convolution (3x3, 3x3, 1x1); the input is added.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: over frames and frequencies, of the first convolution.
        has_gates: squeeze and excitation before the input is added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, has_gates: bool) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.se = SqueezeExcitation(out_channels) if has_gates else None

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        """Map `x` (B, F, M, C) and its frames to the output and its frames."""
        y = normalise(self.bn1, x, frames.mask, relu=True)
        y = convolve(self.conv1, y)
        frames = frames.strided(y.shape[1], self.stride)
        y = normalise(self.bn2, y, frames.mask, relu=True)
        y = convolve(self.conv2, y)
        y = normalise(self.bn3, y, frames.mask, relu=True)
        y = convolve(self.conv3, y)
        return _add_input(x, y, frames, self.downsample, self.se), frames


class BasicBlock(nn.Module):
    """Two convolutions (3x3) with BatchNorm, ReLU between; the input is added; ReLU.

    He et al. 2016, figure 5. Arguments as in `PreactivatedBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, has_gates: bool) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.se = SqueezeExcitation(out_channels) if has_gates else None

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        """Map `x` (B, F, M, C) and its frames to the output and its frames."""
        y = convolve(self.conv1, x)
        frames = frames.strided(y.shape[1], self.stride)
        y = normalise(self.bn1, y, frames.mask, relu=True)
        y = convolve(self.conv2, y)
        y = normalise(self.bn2, y, frames.mask)
        return torch.relu(_add_input(x, y, frames, self.downsample, self.se)), frames


class BottleneckBlock(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 with BatchNorm, ReLU between; the input is added; ReLU.

    He et al. 2016, figure 5, with the stride in the middle. The output has 4 x `out_channels`
    channels. Arguments as in `PreactivatedBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, has_gates: bool) -> None:
        super().__init__()
        self.stride = stride
        expanded = EXPANSIONS["bottleneck"] * out_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv3 = nn.Conv2d(out_channels, expanded, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(expanded)
        self.downsample = _shortcut(in_channels, expanded, stride)
        self.se = SqueezeExcitation(expanded) if has_gates else None

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        """Map `x` (B, F, M, C) and its frames to the output and its frames."""
        y = normalise(self.bn1, convolve(self.conv1, x), frames.mask, relu=True)
        y = convolve(self.conv2, y)
        frames = frames.strided(y.shape[1], self.stride)
        y = normalise(self.bn2, y, frames.mask, relu=True)
        y = normalise(self.bn3, convolve(self.conv3, y), frames.mask)
        return torch.relu(_add_input(x, y, frames, self.downsample, self.se)), frames


BLOCKS: dict[str, type[PreactivatedBlock] | type[BasicBlock] | type[BottleneckBlock]] = {
    "preactivated": PreactivatedBlock,
    "basic": BasicBlock,
    "bottleneck": BottleneckBlock,
}
EXPANSIONS = {"preactivated": 1, "basic": 1, "bottleneck": 4}
"""Channels of a block's output, in units of its `out_channels`."""


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return the layer that gives a block's input the shape of its output, if needed."""
    if stride == 1 and in_channels == out_channels:
        return None
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def _add_input(
    x: Tensor,
    y: Tensor,
    frames: Frames,
    shortcut: nn.Sequential | None,
    squeeze_excitation: SqueezeExcitation | None,
) -> Tensor:
    """Add a block's input `x` to what its convolutions gave, `y`, gated if asked.

    `frames` are those of `y`.
    """
    if shortcut is not None:
        conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(shortcut))
        x = normalise(norm, convolve(conv, x), frames.mask)
    if squeeze_excitation is None:
        return y + x
    return torch.addcmul(x, y, squeeze_excitation(y, frames))


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply `conv`, which has no bias, to maps `x` (B, F, M, C) padded with zeros."""
    return convolve_maps(x, conv.weight, (conv.stride[0], conv.stride[1]))


class SqueezeExcitation(nn.Module):
    """Gates of channels from their means over the valid maps (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Return gates (B, 1, 1, C), 0 to 1, for maps `x` (B, F, M, C), in their type."""
        mean = frames.mean(x.mean(2, dtype=accumulation_dtype(x.dtype)))
        gates: Tensor = self.fc(mean)
        return gates[:, None, None].to(x.dtype)
