"""ERes2NetV2, a Res2Net with attentive fusion of features within and between stages (Chen et al. 2024).

Parameter names, shapes and outputs are those of the program that its authors released in
3D-Speaker. In a padded batch every convolution sees zeros behind an utterance's end, as if the
utterance stood alone.

Maps are (B, F, M, C): batch, frames, frequencies, channels. The released weights have kernels over
frequencies first, then frames.
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
from speechssl.nn.frames import Frames
from speechssl.nn.maps import convolve_bands_first, convolve_maps
from speechssl.nn.pooling import unbiased_statistics

__all__ = ["PART", "ERes2NetV2"]

_STRIDES = (1, 2, 2, 2)
_HIGHEST = 20.0
"""Activations inside the blocks are clipped here."""

_REDUCTION = 4
"""Channels of a fusion, divided by those of its bottleneck."""

MAX_BLOCKS = 200
MAX_SCALE = 64
"""Far beyond any use: a model folder may be somebody else's."""


class ERes2NetV2(Encoder):
    """ERes2NetV2 encoder, to one embedding an utterance.

    Args:
        input_dim: M, features of a frame.
        width: channels of the first stage, doubled from stage to stage.
        blocks: blocks in each of the four stages.
        base_width: channels of a group inside a block are `base_width` / 64 of the stage's.
        scale: groups of a block.
        expansion: channels of a block's output, in units of the stage's.
        embedding_dim: D, size of an embedding.
        added_variance: added to the pooled variances before the root.

    The released models are `{}` and `{base_width: 24, scale: 4, expansion: 4}` (w24s4ep4).

    Raises:
        UserError: sizes that cannot be.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        width: int = 64,
        blocks: list[int] = [3, 4, 6, 3],  # noqa: B006 (read only)
        base_width: int = 26,
        scale: int = 2,
        expansion: int = 2,
        embedding_dim: int = 192,
        added_variance: float = 1e-8,
    ) -> None:
        super().__init__()
        _check_sizes(width, blocks, base_width, scale, expansion)
        check_at_least_one("eres2netv2", embedding_dim=embedding_dim)
        self.embedding_dim = embedding_dim
        self.added_variance = added_variance
        self.conv1 = _convolution(1, width, 3, 1)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for index, count in enumerate(blocks):
            planes = width << index
            stage = nn.ModuleList()
            for number in range(count):
                stride = _STRIDES[index] if number == 0 else 1
                group = planes * base_width // 64
                block = Block(channels, planes * expansion, group, scale, stride, index >= 2)
                stage.append(block)
                channels = planes * expansion
            self.add_module(f"layer{index + 1}", stage)
        self.layer3_ds = _convolution(channels // 2, channels, 3, 2)
        self.fuse34 = Fusion(channels)
        frequencies = input_dim
        for stride in _STRIDES:
            frequencies = -(-frequencies // stride)  # rounded up
        self.seg_1 = nn.Linear(2 * channels * frequencies, embedding_dim)

    def _stages(self) -> list[nn.ModuleList]:
        return [cast(nn.ModuleList, self.get_submodule(f"layer{n}")) for n in (1, 2, 3, 4)]

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the last block of each stage; it gives maps (B, F, M, C) and `Frames`."""
        return {f"layer{index + 1}": stage[-1] for index, stage in enumerate(self._stages())}

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the linear layer."""
        return {"seg_1": self.seg_1}

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M); see `Encoder.forward`."""
        frames = Frames.of(features, lengths)
        maps = frames.zero_padding(features)[:, :, :, None]
        maps = normalise(self.bn1, convolve_bands_first(self.conv1, maps), frames.mask, relu=True)
        outputs = []
        for stage in self._stages():
            for block in stage:
                maps, frames = block(maps, frames)
            outputs.append(maps)
        third = frames.zero_padding(convolve_bands_first(self.layer3_ds, outputs[2]))
        maps = self.fuse34(outputs[3], third, frames)
        # channels before frequencies, as the weights have them
        x = maps.transpose(2, 3).flatten(2)
        pooled = unbiased_statistics(x, frames, added_variance=self.added_variance)
        embeddings: Tensor = self.seg_1(pooled)
        return embeddings


def _check_sizes(
    width: int, blocks: list[int], base_width: int, scale: int, expansion: int
) -> None:
    """Raise UserError for sizes that cannot be."""
    if len(blocks) != 4 or min(blocks) < 1 or max(blocks) > MAX_BLOCKS:
        raise UserError(
            f"eres2netv2: blocks {blocks}; give four numbers between 1 and {MAX_BLOCKS}"
        )
    if width < 1 or not 1 <= scale <= MAX_SCALE or expansion < 1:
        raise UserError(
            f"eres2netv2: width {width} and expansion {expansion} must be at least 1, scale {scale}"
            f" between 1 and {MAX_SCALE}"
        )
    # the third stage is the first one with fusions, the narrowest of which has a bottleneck
    if width * base_width < 64 or 4 * width * base_width // 64 < _REDUCTION:
        raise UserError(
            f"eres2netv2: width {width} with base_width {base_width} leaves no channel for a group;"
            " raise one of them"
        )


class Block(nn.Module):
    """A 1x1 convolution, groups in a chain of 3x3 ones, a 1x1 one; the input is added.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        group: channels of a group.
        scale: number of groups.
        stride: over frames and frequencies.
        fuses: a group is fused with the previous one's output under attention, and not added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        group: int,
        scale: int,
        stride: int,
        fuses: bool,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.group = group
        self.conv1 = _convolution(in_channels, group * scale, 1, stride)
        self.bn1 = nn.BatchNorm2d(group * scale)
        self.convs = nn.ModuleList()
        self.bns = nn.ModuleList()
        for _ in range(scale):
            self.convs.append(_convolution(group, group, 3, 1))
            self.bns.append(nn.BatchNorm2d(group))
        self.fuse_models: nn.ModuleList | None = None
        if fuses:
            self.fuse_models = nn.ModuleList([Fusion(group) for _ in range(scale - 1)])
        self.conv3 = _convolution(group * scale, out_channels, 1, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(_convolution(in_channels, out_channels, 1, stride))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        """Map `x` (B, F, M, C) and its frames to the output and its frames."""
        y = convolve_bands_first(self.conv1, x)
        frames = frames.strided(y.shape[1], self.stride)
        y = normalise(self.bn1, y, frames.mask).clamp(0.0, _HIGHEST)
        outputs: list[Tensor] = []
        for index, group in enumerate(torch.split(y, self.group, dim=3)):
            if index and self.fuse_models is not None:
                group = self.fuse_models[index - 1](outputs[-1], group, frames)
            elif index:
                group = group + outputs[-1]
            conv = cast(nn.Conv2d, self.convs[index])
            group = normalise(self.bns[index], convolve_bands_first(conv, group), frames.mask)
            outputs.append(group.clamp(0.0, _HIGHEST))
        y = normalise(
            self.bn3, convolve_bands_first(self.conv3, torch.cat(outputs, 3)), frames.mask
        )
        if len(self.shortcut):
            conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(self.shortcut))
            x = normalise(norm, convolve_bands_first(conv, x), frames.mask)
        return (y + x).clamp(0.0, _HIGHEST), frames


class Fusion(nn.Module):
    """Two maps under complementary weights between 0 and 2, computed from both.

    Attentional feature fusion (Dai et al. 2021), of each place by itself.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        bottleneck = channels // _REDUCTION
        self.local_att = nn.Sequential(
            nn.Conv2d(2 * channels, bottleneck, 1),
            nn.BatchNorm2d(bottleneck),
            nn.SiLU(),
            nn.Conv2d(bottleneck, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, y: Tensor, frames: Frames) -> Tensor:
        """Fuse `x` and `y` (B, F, M, C), zero in the padding, to (B, F, M, C)."""
        squeeze, norm1, _, expand, norm2 = self.local_att
        hidden = _product(cast(nn.Conv2d, squeeze), torch.cat([x, y], 3))
        hidden = F.silu(normalise(norm1, hidden, frames.mask))
        logits = normalise(norm2, _product(cast(nn.Conv2d, expand), hidden), frames.mask)
        weight = torch.tanh(logits)
        return x * (1.0 + weight) + y * (1.0 - weight)


def _product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution to maps (B, F, M, C)."""
    assert conv.bias is not None
    y = convolve_maps(x, conv.weight)
    return y + conv.bias.to(y.dtype)  # autocast would add them in float32


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    """Return a convolution over frequencies and frames, padded with zeros, without bias."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


PART = ERes2NetV2
