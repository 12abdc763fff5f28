"""Channels-last convolutions of maps (B, F, M, C) and of frames (B, F, C), with zeros at the ends.

For networks whose published weights were trained with zero padding. `nn.convolution` has
the reflected ends of SpeechBrain's networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.products import linear

__all__ = ["convolve_bands_first", "convolve_frames", "convolve_maps"]


def convolve_maps(x: Tensor, weight: Tensor, stride: tuple[int, int] = (1, 1)) -> Tensor:
    """Convolve channels-last maps over frames and frequencies, without a bias.

    Kernels of one element become matrix products, which also steers round a crash of oneDNN in
    the backward pass of strided channels-last 1x1 convolutions with few channels (torch 2.13, 8
    to 16 channels).

    Args:
        x: (B, F, M, C), zero in the padding of each utterance.
        weight: (C', C, odd, odd), kernels over frames and frequencies, in this order.
        stride: over frames and frequencies.

    Returns:
        (B, F', M', C') maps, contiguous.
    """
    size = weight.shape[2:]
    if size == (1, 1) and not torch.compiler.is_compiling():
        return linear(x[:, :: stride[0], :: stride[1]], weight[:, :, 0, 0])
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=(size[0] // 2, size[1] // 2))
    return y.permute(0, 2, 3, 1).contiguous()


def convolve_bands_first(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution whose kernel has frequencies before frames, as many released weights do.

    Args:
        conv: without bias, padded with zeros; its stride, too, has frequencies first.
        x: (B, F, M, C) maps, zero in the padding of each utterance.

    Returns:
        (B, F', M', C') maps.
    """
    stride = (conv.stride[1], conv.stride[0])
    return convolve_maps(x, conv.weight.transpose(2, 3), stride)


def convolve_frames(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply a 1-d convolution to channels-last frames.

    Args:
        conv: over frames, with a padding given as a number.
        x: (B, F, C), zero in the padding of each utterance.

    Returns:
        (B, F', C') frames.
    """
    if conv.kernel_size == (1,) and conv.groups == 1:
        return linear(x[:, :: conv.stride[0]], conv.weight.flatten(1), conv.bias)
    if conv.groups > 1:
        # In bfloat16 oneDNN does not come back from the 2-d form (torch 2.13, 59 frames wide).
        y = F.conv1d(
            x.transpose(1, 2),
            conv.weight,
            conv.bias,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
        )
        return y.transpose(1, 2)
    image = x[:, None].permute(0, 3, 1, 2)  # (B, C, 1, F), channels last in memory
    y = F.conv2d(
        image,
        conv.weight[:, :, None],
        conv.bias,
        stride=(1, conv.stride[0]),
        padding=(0, int(conv.padding[0])),
        dilation=(1, conv.dilation[0]),
    )
    return y.permute(0, 2, 3, 1)[:, 0]
