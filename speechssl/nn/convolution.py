"""Channels-last convolution over frames, and the TDNN layer made of it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.batch_norm import BatchNorm
from speechssl.nn.frames import Frames
from speechssl.nn.products import linear

__all__ = ["TDNN", "Convolution"]


class Convolution(nn.Module):
    """Convolution over frames with reflected ends (or zeros: `padding`), on (B, F, C).

    The parameters are those of `nn.Conv1d` (same names, shapes and initialisation); its
    forward pass, which wants (B, C, F), is never used. A kernel of one frame is a
    matrix product; a wider one (odd) is a channels-last 2-d convolution over a map one
    row high, which was the fastest of the forms measured (against shifted copies and
    one product, and one product a tap), forward and backward, fp32 and bf16.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: frames, odd.
        dilation: distance of the frames that the kernel sees.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation)
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding: Literal["reflect", "zeros"] = "reflect"

    def forward(self, x: Tensor, frames: Frames | None = None, relu: bool = False) -> Tensor:
        """Convolve; the number of frames stays.

        Args:
            x: (B, F, in_channels); for kernels of one frame also (B, in_channels).
            frames: where utterances end; needed by kernels wider than one frame.
            relu: rectify the result.

        Returns:
            (B, F, out_channels), or (B, out_channels).
        """
        if self.kernel_size == 1:
            return self._product(x, relu)
        if frames is None:
            raise ValueError("a kernel wider than one frame needs to know where utterances end")
        return self._convolution(x, frames, relu)

    def _product(self, x: Tensor, relu: bool) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = linear(rows, self.conv.weight.flatten(1), self.conv.bias)
        if relu:
            y = y.relu_()
        return y.view(*x.shape[:-1], -1)

    def _convolution(self, x: Tensor, frames: Frames, relu: bool) -> Tensor:
        pad = self.dilation * (self.kernel_size - 1) // 2
        if self.padding == "zeros":
            padded = F.pad(frames.zero_padding(x), (0, 0, pad, pad))
        else:
            padded = frames.pad(x, pad)
        image = padded[:, None].permute(0, 3, 1, 2)  # (B, C, 1, F), channels last in memory
        kernel = self.conv.weight[:, :, None]
        y = F.conv2d(image, kernel, self.conv.bias, dilation=(1, self.dilation))
        if relu:
            y = y.relu_()
        return y.permute(0, 2, 3, 1)[:, 0]


class TDNN(nn.Module):
    """Convolution, ReLU, BatchNorm, in SpeechBrain's order; arguments as in `Convolution`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = Convolution(in_channels, out_channels, kernel_size, dilation)
        self.norm: nn.Module = BatchNorm(out_channels)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, in_channels) to (B, F, out_channels)."""
        y: Tensor = self.norm(self.conv(x, frames, relu=True), frames.mask)
        return y
