"""ResNet speaker encoder, pre-activated, channels last.

Parameter names, shapes and outputs are those of `speechbrain.lobes.models.ResNet.ResNet` (after
Rouvier's), whose channels are given by `channels`; by default they double from stage to stage, so that
`width: 16, pooling: statistics` has the size of the light ResNet34 of Cho et al. 2022. In a padded
batch every convolution sees zeros behind an utterance's end, as it would if the utterance stood alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ._layers import Frames, precise
from ._pooling import statistics

__all__ = ["PART", "ResNet"]

_FLOOR = 1e-5
_STRIDES = (1, 2, 2, 2)


class Bounds:
    """Valid frames of a padded batch at one resolution of the network; `frames` None means all."""

    def __init__(self, frames: Frames | None = None) -> None:
        self.frames = frames

    @classmethod
    def of(cls, x: Tensor, lengths: Tensor | None) -> Bounds:
        """Bounds of maps `x` (B, C, F, M)."""
        return cls() if lengths is None else cls(Frames(x.shape[0], x.shape[2], lengths, x.device))

    def clear(self, x: Tensor) -> Tensor:
        """Zeros in the padding of `x` (B, C, F, M)."""
        if self.frames is None or self.frames.mask is None:
            return x
        return x * self.frames.mask[:, None, :, None]

    def halved(self, x: Tensor, stride: int) -> Bounds:
        """Bounds of `x` (B, C, F', M'), which a convolution with this stride has made."""
        if self.frames is None or self.frames.lengths is None or stride == 1:
            return self
        return Bounds.of(x, (self.frames.lengths + stride - 1) // stride)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the valid part of each map of `x` (B, C, F, M): (B, C), float32."""
        if self.frames is None or self.frames.lengths is None:
            return x.mean((2, 3), dtype=precise(x.dtype))
        return self.clear(x).sum((2, 3), dtype=precise(x.dtype)) / (self.frames.lengths[:, None] * x.shape[3])

    def norm(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        """Batch norm of `x` (B, C, F, M), whose statistics in training are those of the valid frames."""
        if self.frames is None or self.frames.mask is None or not norm.training:
            return norm(x)
        mask = self.frames.mask
        valid = norm(x.transpose(1, 2)[mask].unsqueeze(3)).squeeze(3)
        return torch.zeros_like(x).transpose(1, 2).index_put((mask,), valid).transpose(1, 2)


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution without bias to maps `x` (B, C, F, M), as a matrix product on the last axis.

    On a CPU this also steers round a crash of oneDNN, in the backward pass of strided channels-last 1x1
    convolutions with few channels (torch 2.13, 8 to 16 channels).
    """
    stride = conv.stride[0]
    x = x.permute(0, 2, 3, 1)[:, ::stride, ::stride]
    return F.linear(x, conv.weight[:, :, 0, 0]).permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    """Channel gates from the mean over each valid map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor, bounds: Bounds) -> Tensor:
        return x * self.fc(bounds.mean(x))[:, :, None, None].to(x.dtype)


class Block(nn.Module):
    """Three times batch norm, ReLU, convolution (3x3, 3x3, 1x1); gates if asked; the input added."""

    def __init__(self, inputs: int, outputs: int, stride: int, squeeze_excitation: bool) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.se = SqueezeExcitation(outputs) if squeeze_excitation else None

    def forward(self, x: Tensor, bounds: Bounds) -> tuple[Tensor, Bounds]:
        """Maps `x` (B, C, F, M) with their bounds to the next ones."""
        y = self.conv1(bounds.clear(torch.relu(bounds.norm(self.bn1, x))))
        after = bounds.halved(y, self.stride)
        y = self.conv2(after.clear(torch.relu(after.norm(self.bn2, y))))
        y = pointwise(self.conv3, torch.relu(after.norm(self.bn3, y)))
        if self.se is not None:
            y = self.se(y, after)
        if self.downsample is not None:
            x = after.norm(self.downsample[1], pointwise(self.downsample[0], x))
        return y + x, after


class ResNet(nn.Module):
    """ResNet encoder over time and frequency: frames of features to one embedding an utterance.

    `mels` is the number of features a frame. `blocks` a stage (four stages; [3, 4, 6, 3] is ResNet34);
    `channels` of the stages, by default `width` x (1, 2, 4, 8); `squeeze_excitation` says how many
    stages, from the first, have gates (SpeechBrain: 2). `pooling` is attention with `attention`
    bottleneck channels, or plain statistics. `dim` is the embedding's size.
    """

    def __init__(
        self,
        mels: int,
        *,
        width: int = 32,
        blocks: list[int] = [3, 4, 6, 3],  # noqa: B006 (read only)
        channels: list[int] | None = None,
        embedding: int = 256,
        squeeze_excitation: int = 2,
        attention: int = 128,
        pooling: Literal["attentive", "statistics"] = "attentive",
    ) -> None:
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width] if channels is None else list(channels)
        if len(blocks) != 4 or len(channels) != 4:
            raise UserError(
                f"resnet: blocks {blocks} and channels {channels} need one entry for each of 4 stages"
            )
        self.dim = embedding
        self.conv1 = nn.Conv2d(1, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        inputs = channels[0]
        for stage, (outputs, count, stride) in enumerate(zip(channels, blocks, _STRIDES, strict=True)):
            gates = stage < squeeze_excitation
            layers = [Block(inputs, outputs, stride, gates)]
            layers += [Block(outputs, outputs, 1, gates) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.ModuleList(layers))
            inputs = outputs
        pooled = channels[-1] * -(-mels // 8)
        self.norm_stats = nn.BatchNorm1d(2 * pooled)
        self.attention = _attention(pooled, attention) if pooling == "attentive" else None
        self.fc_embed = nn.Linear(2 * pooled, embedding)
        self.norm_embed = nn.BatchNorm1d(embedding)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed `features` (B, F, mels), of which `lengths` (B,) frames are valid (None: all): (B, D)."""
        x = features[:, None].contiguous(memory_format=torch.channels_last)
        bounds = Bounds.of(x, lengths)
        x = self.conv1(bounds.clear(x)).contiguous(memory_format=torch.channels_last)
        x = torch.relu(bounds.norm(self.bn1, x))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x, bounds = block(x, bounds)
        return self.norm_embed(self.fc_embed(self.norm_stats(self._pool(x, bounds))))

    def _pool(self, x: Tensor, bounds: Bounds) -> Tensor:
        """Statistics (B, 2 * C * M) of maps `x` (B, C, F, M), each channel and frequency for itself."""
        x = x.transpose(1, 2).flatten(2)
        frames = bounds.frames or Frames(x.shape[0], x.shape[1], None, x.device)
        if self.attention is None:
            return statistics(x, frames, floor=_FLOOR)
        first, last = self.attention[0], self.attention[3]
        hidden = torch.relu(F.linear(x, first.weight[:, :, 0], first.bias))
        if self.training and frames.mask is not None:
            normed = torch.zeros_like(hidden).index_put(
                (frames.mask,), self.attention[2](hidden[frames.mask])
            )
        else:
            normed = self.attention[2](hidden.flatten(0, 1)).view(hidden.shape)
        logits = F.linear(normed, last.weight[:, :, 0], last.bias)
        return statistics(x, frames, logits, _FLOOR)


def _attention(channels: int, bottleneck: int) -> nn.Sequential:
    """Parameters of the attention, under SpeechBrain's names."""
    return nn.Sequential(
        nn.Conv1d(channels, bottleneck, 1),
        nn.ReLU(),
        nn.BatchNorm1d(bottleneck),
        nn.Conv1d(bottleneck, channels, 1),
    )


PART = ResNet
