"""Channels-last convolutions over frames, and the TDNN layer made of them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.batch_norm import (
    BatchNorm,
)
from speechssl.nn.frames import Frames


class Convolution(nn.Module):
    """Convolution over frames with reflected ends, on (B, F, C).

    The parameters are those of `nn.Conv1d` (same names, shapes and initialisation); its forward
    pass, which wants (B, C, F), is never used. A kernel of one frame is a matrix product; a wider
    one (odd) is a channels-last 2-d convolution over a map one row high, which was the fastest of
    the forms measured (against shifted copies and one product, and one product a tap), forward and
    backward, fp32 and bf16.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation)
        self.kernel = kernel
        self.dilation = dilation

    def forward(self, x: Tensor, frames: Frames | None = None, relu: bool = False) -> Tensor:
        """Map `x` (B, F, inputs), or (B, inputs) for kernel 1, to as many frames of `outputs`
        channels.

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


class TDNN(nn.Module):
    """Convolution, ReLU, batch norm: SpeechBrain's order."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Convolution(inputs, outputs, kernel, dilation)
        self.norm = BatchNorm(outputs)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        return self.norm(self.conv(x, frames, relu=True), frames.mask)
