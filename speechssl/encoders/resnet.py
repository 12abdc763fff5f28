"""ResNet speaker encoder, channels last.

With pre-activated blocks (the default), parameter names, shapes and outputs are those of
`speechbrain.lobes.models.ResNet.ResNet` (after Rouvier's), whose channels are given by `channels`;
by default they double from stage to stage. With basic blocks it is the ResNet34 of He et al. 2016;
the light ResNet34 of Cho et al. 2022 is `width: 16, block: basic, squeeze_excitation: 0, pooling:
statistics`. In a padded batch every convolution sees zeros behind an utterance's end, as if the
utterance stood alone.

Maps are (B, F, M, C): batch, frames, frequencies, channels.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.batch_norm import normalise
from speechssl.nn.frames import Frames, precise
from speechssl.nn.pooling import statistics

__all__ = ["PART", "ResNet"]

_FLOOR = 1e-5
_STRIDES = (1, 2, 2, 2)


def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply `conv`, which has no bias, to maps `x` (B, F, M, C), with zeros around them.

    1x1 kernels become matrix products, which also steers round a crash of oneDNN in the backward
    pass of strided channels-last 1x1 convolutions with few channels (torch 2.13, 8 to 16 channels).
    """
    stride = conv.stride[0]
    if conv.kernel_size == (1, 1) and not torch.compiler.is_compiling():
        return F.linear(x[:, ::stride, ::stride], conv.weight[:, :, 0, 0])
    y = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, stride=stride, padding=conv.padding[0])
    return y.permute(0, 2, 3, 1).contiguous()


def _halved(frames: Frames, count: int, stride: int) -> Frames:
    """Bounds of the `count` frames that a convolution with this stride makes."""
    lengths = frames.lengths
    if stride == 1 or lengths is None:
        return Frames(frames.batch, count, lengths, frames.device)
    return Frames(frames.batch, count, (lengths + stride - 1) // stride, frames.device)


class SqueezeExcitation(nn.Module):
    """Channel gates from the mean over the valid maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Gates (B, 1, 1, C) for maps `x`, in their type."""
        mean = frames.mean(x.mean(2, dtype=precise(x.dtype)))
        return self.fc(mean)[:, None, None].to(x.dtype)


class Block(nn.Module):
    """Three times batch norm, ReLU, convolution (3x3, 3x3, 1x1); gates if asked; the input
    added.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, gates: bool) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.downsample = _shortcut(inputs, outputs, stride)
        self.se = SqueezeExcitation(outputs) if gates else None

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        """Maps `x` (B, F, M, C) and their bounds to the next ones."""
        y = _convolve(self.conv1, normalise(self.bn1, x, frames.mask, relu=True))
        after = _halved(frames, y.shape[1], self.stride)
        y = _convolve(self.conv2, normalise(self.bn2, y, after.mask, relu=True))
        y = _convolve(self.conv3, normalise(self.bn3, y, after.mask, relu=True))
        if self.downsample is not None:
            x = _downsampled(self.downsample, x, after)
        return (y + x if self.se is None else torch.addcmul(x, y, self.se(y, after))), after


class BasicBlock(nn.Module):
    """Convolution (3x3), batch norm, ReLU, the same without ReLU; the input added; ReLU (He et al.
    2016).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, gates: bool) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)
        self.se = SqueezeExcitation(outputs) if gates else None

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        """Maps `x` (B, F, M, C) and their bounds to the next ones."""
        y = _convolve(self.conv1, x)
        after = _halved(frames, y.shape[1], self.stride)
        y = _convolve(self.conv2, normalise(self.bn1, y, after.mask, relu=True))
        y = normalise(self.bn2, y, after.mask)
        if self.downsample is not None:
            x = _downsampled(self.downsample, x, after)
        y = y + x if self.se is None else torch.addcmul(x, y, self.se(y, after))
        return torch.relu(y), after


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to the shape of its output, if it does not have it."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _downsampled(shortcut: nn.Sequential, x: Tensor, after: Frames) -> Tensor:
    conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(shortcut))
    return normalise(norm, _convolve(conv, x), after.mask)


class Attention(nn.Sequential):
    """Attentive statistics pooling; the parameters stand under SpeechBrain's names `0`, `2` and
    `3`.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        squeeze, expand = nn.Conv1d(channels, bottleneck, 1), nn.Conv1d(bottleneck, channels, 1)
        super().__init__(squeeze, nn.ReLU(), nn.BatchNorm1d(bottleneck), expand)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:  # type: ignore[override]
        """Pool `x` (B, F, C) to (B, 2C)."""
        squeeze, _, norm, expand = cast(
            "tuple[nn.Conv1d, nn.ReLU, nn.BatchNorm1d, nn.Conv1d]", tuple(self)
        )
        hidden = torch.relu(F.linear(x, squeeze.weight.flatten(1), squeeze.bias))
        hidden = normalise(norm, hidden, frames.mask if self.training else None)
        return statistics(
            x, frames, F.linear(hidden, expand.weight.flatten(1), expand.bias), _FLOOR
        )


class ResNet(Encoder):
    """ResNet encoder over time and frequency: frames of features to one embedding an utterance.

    `mels` is the number of features a frame. `blocks` a stage (four stages; [3, 4, 6, 3] is
    ResNet34); `channels` of the stages, by default `width` x (1, 2, 4, 8); `block` is the kind of
    block; `squeeze_excitation` says how many stages, from the first, have gates (SpeechBrain: 2).
    `pooling` is attention with `attention` bottleneck channels, or plain statistics. `dim` is the
    embedding's size.
    """

    def __init__(
        self,
        mels: int,
        *,
        width: int = 32,
        blocks: list[int] = [3, 4, 6, 3],  # noqa: B006 (read only)
        channels: list[int] | None = None,
        embedding: int = 256,
        block: Literal["preactivated", "basic"] = "preactivated",
        squeeze_excitation: int = 2,
        attention: int = 128,
        pooling: Literal["attentive", "statistics"] = "attentive",
    ) -> None:
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width] if channels is None else list(channels)
        if len(blocks) != 4 or len(channels) != 4 or min(blocks) < 1:
            raise UserError(
                f"resnet: blocks {blocks} and channels {channels}; give one of each for all 4"
                " stages"
            )
        self.embedding_dim = embedding
        self.conv1 = nn.Conv2d(1, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        kind = Block if block == "preactivated" else BasicBlock
        stages = []
        for stage, (outputs, count, stride) in enumerate(
            zip(channels, blocks, _STRIDES, strict=True)
        ):
            inputs, gates = channels[max(0, stage - 1)], stage < squeeze_excitation
            others = (kind(outputs, outputs, 1, gates) for _ in range(count - 1))
            stages.append(nn.ModuleList([kind(inputs, outputs, stride, gates), *others]))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        pooled = channels[-1] * -(-mels // 8)
        self.norm_stats = nn.BatchNorm1d(2 * pooled)
        self.attention = Attention(pooled, attention) if pooling == "attentive" else None
        self.fc_embed = nn.Linear(2 * pooled, embedding)
        self.norm_embed = nn.BatchNorm1d(embedding)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the last block of each stage; each gives maps (B, F, M, C) and their `Frames`."""
        return {
            "layer1": self.layer1[-1],
            "layer2": self.layer2[-1],
            "layer3": self.layer3[-1],
            "layer4": self.layer4[-1],
        }

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the batch norms before and after the last linear layer, and that layer."""
        return {
            "norm_stats": self.norm_stats,
            "fc_embed": self.fc_embed,
            "norm_embed": self.norm_embed,
        }

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed `features` (B, F, mels), of which `lengths` (B,) frames are valid (None: all): (B,
        D).
        """
        frames = Frames(features.shape[0], features.shape[1], lengths, features.device)
        if frames.mask is not None:
            features = features.masked_fill(~frames.mask[:, :, None], 0.0)
        x = normalise(
            self.bn1, _convolve(self.conv1, features[:, :, :, None]), frames.mask, relu=True
        )
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x, frames = block(x, frames)
        x = x.transpose(2, 3).flatten(2)  # channels before frequencies, as the weights have them
        pooled = (
            statistics(x, frames, floor=_FLOOR)
            if self.attention is None
            else self.attention(x, frames)
        )
        return self.norm_embed(self.fc_embed(self.norm_stats(pooled)))


PART = ResNet
