"""CAM++, a densely connected TDNN with context-aware masks (Wang et al. 2023).

Parameter names, shapes and outputs are those of the program that its authors released in
3D-Speaker; wespeaker has the same names. It is a light encoder: 7 M parameters and less than half of the
products of ECAPA-512. In a padded batch every convolution sees zeros behind an utterance's end, as if
the utterance stood alone.

A convolution over frequencies and time halves the rate of frequencies three times; a TDNN layer halves the
rate of frames; three blocks of dense layers follow, each layer adding `growth_rate` channels. A
layer's output is masked by a gate that sees the mean of the whole utterance and of the layer's
own segment of 100 frames.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.encoders.sizes import check_at_least_one
from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.batch_norm import normalise
from speechssl.nn.frames import Frames, accumulation_dtype
from speechssl.nn.maps import convolve_bands_first, convolve_frames
from speechssl.nn.pooling import unbiased_statistics

__all__ = ["PART", "CAMPPlus"]

SEGMENT_FRAMES = 100
"""Frames of a segment whose mean a gate sees, after the first TDNN layer: 2 s."""

_DILATIONS = (1, 2, 2)

MAX_LAYERS = 500
"""Layers of a block, far beyond any use: a model folder may be somebody else's."""


class CAMPPlus(Encoder):
    """CAM++ encoder, to one embedding an utterance.

    Args:
        input_dim: M, features of a frame; a multiple of 8.
        head_channels: channels of the two-dimensional convolutions before the TDNN.
        width: channels of the first TDNN layer.
        layers: dense layers in each of the three blocks.
        growth_rate: channels that each dense layer adds.
        bottleneck: channels inside a dense layer, in units of `growth_rate`.
        embedding_dim: D (3D-Speaker: 192 or 512).
        added_variance: added to the pooled variances before the root (3D-Speaker: 0; wespeaker:
            1e-7).

    Raises:
        UserError: the sizes do not fit together.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        head_channels: int = 32,
        width: int = 128,
        layers: list[int] = [12, 24, 16],  # noqa: B006 (read only)
        growth_rate: int = 32,
        bottleneck: int = 4,
        embedding_dim: int = 192,
        added_variance: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least_one(
            "campplus",
            head_channels=head_channels,
            width=width,
            growth_rate=growth_rate,
            bottleneck=bottleneck,
            embedding_dim=embedding_dim,
        )
        if input_dim % 8:
            raise UserError(f"campplus: {input_dim} features a frame; choose a multiple of 8")
        if len(layers) != 3 or min(layers) < 1 or max(layers) > MAX_LAYERS:
            raise UserError(
                f"campplus: layers {layers}; give three numbers between 1 and {MAX_LAYERS}"
            )
        self.embedding_dim = embedding_dim
        self.added_variance = added_variance
        self.head = Head(head_channels)
        # The names of the released weights: everything after the head is called `xvector`.
        self.xvector = nn.ModuleDict()
        self.xvector["tdnn"] = StridedTDNN(head_channels * (input_dim // 8), width)
        channels = width
        for index, (count, dilation) in enumerate(zip(layers, _DILATIONS, strict=True)):
            block = DenseBlock(channels, count, growth_rate, bottleneck * growth_rate, dilation)
            channels += count * growth_rate
            self.xvector[f"block{index + 1}"] = block
            self.xvector[f"transit{index + 1}"] = Transit(channels, channels // 2)
            channels //= 2
        self.xvector["out_nonlinear"] = NormReLU(channels)
        self.xvector["dense"] = Dense(2 * channels, embedding_dim)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the head (maps) and the three dense blocks (B, F, C)."""
        layers: dict[str, nn.Module] = {"head": self.head}
        for name in ("block1", "block2", "block3"):
            layers[name] = self.xvector[name]
        return layers

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the linear layer with its BatchNorm."""
        return {"dense": self.xvector["dense"]}

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M); see `Encoder.forward`."""
        frames = Frames.of(features, lengths)
        maps = self.head(frames.zero_padding(features), frames)
        # channels before frequencies, as the weights have them
        x = maps.transpose(2, 3).flatten(2)
        x, frames = self.xvector["tdnn"](x, frames)
        for number in ("1", "2", "3"):
            x = self.xvector[f"block{number}"](x, frames)
            x = self.xvector[f"transit{number}"](x, frames)
        x = self.xvector["out_nonlinear"](x, frames)
        pooled = unbiased_statistics(x, frames, added_variance=self.added_variance)
        embeddings: Tensor = self.xvector["dense"](pooled)
        return embeddings


class Head(nn.Module):
    """Convolutions over frames and frequencies, with three strides of 2 over frequencies.

    The released weights have kernels over frequencies first, then frames.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(1, channels, 3, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.ModuleList([ResidualBlock(channels, 2), ResidualBlock(channels, 1)])
        self.layer2 = nn.ModuleList([ResidualBlock(channels, 2), ResidualBlock(channels, 1)])
        self.conv2 = _convolution(channels, channels, 3, 2)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor, frames: Frames) -> Tensor:
        """Map features (B, F, M), zero in the padding, to maps (B, F, M / 8, C)."""
        mask = frames.mask
        x = normalise(
            self.bn1, convolve_bands_first(self.conv1, features[:, :, :, None]), mask, relu=True
        )
        for layer in (self.layer1, self.layer2):
            for block in layer:
                x = block(x, frames)
        return normalise(self.bn2, convolve_bands_first(self.conv2, x), mask, relu=True)


class ResidualBlock(nn.Module):
    """Two convolutions (3x3) with BatchNorm, ReLU between; the input is added; ReLU.

    Args:
        channels: of input and output.
        stride: over frequencies.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(_convolution(channels, channels, 1, stride))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, M, C) to (B, F, M / stride, C)."""
        y = normalise(self.bn1, convolve_bands_first(self.conv1, x), frames.mask, relu=True)
        y = normalise(self.bn2, convolve_bands_first(self.conv2, y), frames.mask)
        if len(self.shortcut):
            conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(self.shortcut))
            x = normalise(norm, convolve_bands_first(conv, x), frames.mask)
        return torch.relu(y + x)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    """Return a convolution over frequencies (with a stride) and frames, padded with zeros."""
    return nn.Conv2d(in_channels, out_channels, kernel, (stride, 1), kernel // 2, bias=False)


class NormReLU(nn.Module):
    """BatchNorm and ReLU; the padding of the result is zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, C) to (B, F, C)."""
        return normalise(self.batchnorm, x, frames.mask, relu=True)


class StridedTDNN(nn.Module):
    """Convolution over five frames, every second one kept; BatchNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = NormReLU(out_channels)

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        """Map `x` (B, F, C) and its frames to the output and its frames."""
        y = convolve_frames(self.linear, x)
        frames = frames.strided(y.shape[1], 2)
        return self.nonlinear(y, frames), frames


class DenseBlock(nn.ModuleDict):
    """Layers each of which sees the outputs of all before it.

    Args:
        in_channels: channels of the input.
        count: number of layers.
        growth_rate: channels that each layer adds.
        bottleneck: channels inside a layer.
        dilation: of the layers.
    """

    def __init__(
        self, in_channels: int, count: int, growth_rate: int, bottleneck: int, dilation: int
    ) -> None:
        super().__init__()
        for index in range(count):
            channels = in_channels + index * growth_rate
            self[f"tdnnd{index + 1}"] = DenseLayer(channels, growth_rate, bottleneck, dilation)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, C) to (B, F, C + count * growth_rate)."""
        for layer in self.values():
            x = torch.cat([x, layer(x, frames)], 2)
        return x


class DenseLayer(nn.Module):
    """Bottleneck, then a convolution over three frames under a context-aware mask."""

    def __init__(self, in_channels: int, out_channels: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = NormReLU(in_channels)
        self.linear1 = nn.Conv1d(in_channels, bottleneck, 1, bias=False)
        self.nonlinear2 = NormReLU(bottleneck)
        self.cam_layer = ContextMask(bottleneck, out_channels, dilation)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, in_channels) to (B, F, out_channels)."""
        y = convolve_frames(self.linear1, self.nonlinear1(x, frames))
        masked: Tensor = self.cam_layer(self.nonlinear2(y, frames), frames)
        return masked


class ContextMask(nn.Module):
    """A convolution over frames times a gate for each channel and segment.

    The gate is a function of the mean over the utterance plus the mean over the segment.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(
            in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Conv1d(in_channels, in_channels // 2, 1)
        self.linear2 = nn.Conv1d(in_channels // 2, out_channels, 1)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, in_channels), zero in the padding, to (B, F, out_channels)."""
        segment = torch.arange(x.shape[1], device=x.device) // SEGMENT_FRAMES
        # One gate a segment, where the released program computes the same one for each frame.
        context = frames.mean(x)[:, None] + _segment_means(x, frames, segment)
        hidden = torch.relu(convolve_frames(self.linear1, context.to(x.dtype)))
        gates = torch.sigmoid(convolve_frames(self.linear2, hidden))
        local = convolve_frames(self.linear_local, x)
        return local * gates[:, segment].to(local.dtype)


def _segment_means(x: Tensor, frames: Frames, segment: Tensor) -> Tensor:
    """Return the mean of the valid frames of each segment.

    Args:
        x: (B, F, C), zero in the padding.
        frames: which frames are valid.
        segment: (F,) number of each frame's segment, from 0.

    Returns:
        (B, S, C) means for S segments, in at least float32; zero for a segment without a
        valid frame.
    """
    dtype = accumulation_dtype(x.dtype)
    # Two more than are needed, empty: torch.export compiles a dimension of size 1 as a constant.
    count = x.shape[1] // SEGMENT_FRAMES + 2
    numbers = torch.arange(count, device=x.device)
    belongs = numbers[:, None] == segment[None, :]  # (S, F)
    sums = (belongs.to(x.dtype) @ x).to(dtype)
    if frames.mask is None:
        sizes = belongs.to(dtype).sum(1)[None, :]
    else:
        sizes = frames.mask.to(dtype) @ belongs.to(dtype).T
    return sums / sizes.clamp(min=1)[:, :, None]


class Transit(nn.Module):
    """BatchNorm and ReLU, then a matrix product to fewer channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.nonlinear = NormReLU(in_channels)
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, in_channels) to (B, F, out_channels)."""
        return convolve_frames(self.linear, self.nonlinear(x, frames))


class Dense(nn.Module):
    """A linear layer without bias, and a BatchNorm without gain and shift."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.nonlinear = nn.ModuleDict({"batchnorm": nn.BatchNorm1d(out_channels, affine=False)})

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled statistics (B, P) to embeddings (B, D)."""
        embeddings = F.linear(pooled, self.linear.weight.flatten(1))
        return normalise(self.nonlinear["batchnorm"], embeddings)


PART = CAMPPlus
