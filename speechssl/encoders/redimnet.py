"""ReDimNet, blocks over time and blocks over time and frequency in turn (Yakovlev et al. 2024).

Maps of C channels by M frequencies are read as M x C channels over time and back, so that every
stage's output can be added to every later stage's input under learnt weights. Parameter names,
shapes and outputs are those of the authors' program (`ReDimNetWrap`, without its front end). In a
padded batch every convolution sees zeros behind an utterance's end, and attention sees no padding,
as if the utterance stood alone.

Maps are (B, F, M, C): batch, frames, frequencies, channels; over time the M x C numbers of a frame
are in this order. The released weights have kernels over frequencies first, then frames.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from speechssl.encoders.redimnet_blocks import (
    EPS,
    HEADS,
    Block1D,
    Block2D,
    MapBlock,
    Squeeze,
    TimeBlock,
    convolve,
)
from speechssl.encoders.sizes import check_at_least_one
from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.batch_norm import normalise
from speechssl.nn.frames import Frames
from speechssl.nn.maps import convolve_frames
from speechssl.nn.pooling import TanhAttention

__all__ = ["PART", "ReDimNet"]

MAX_STAGES = 30
MAX_BLOCKS = 200
MAX_FACTOR = 64
"""Far beyond any use: a model folder may be somebody else's."""


class ReDimNet(Encoder):
    """ReDimNet encoder, to one embedding an utterance.

    Args:
        input_dim: M, features of a frame; a multiple of the product of the strides.
        channels: C, channels of the maps before the first stage.
        strides: of each stage, over frequencies; channels grow by the same factor.
        blocks: blocks of each stage over time and frequencies.
        expansions: factor of the channels inside each stage.
        reductions: channels over time divided by those inside the block over time, of each stage;
            0: no such block.
        block_2d: blocks over time and frequencies: ConvNeXt's, or residual ones, without or with
            gates of frequencies.
        block_1d: blocks over time: attention, or convolutions and then attention.
        group_size: channels of a group of the convolutions over time and frequencies; 0: all.
        out_channels: channels before pooling; 0: C x M, without a layer.
        global_context: let attention in pooling see the utterance's mean and deviation.
        embedding_norm: BatchNorm of the embedding.
        embedding_dim: D, size of an embedding.

    The sizes of the released models stand in encoders/README.md.

    Raises:
        UserError: the sizes do not fit together.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        channels: int = 16,
        strides: list[int] = [1, 2, 1, 2, 1, 2],  # noqa: B006 (read only)
        blocks: list[int] = [2, 2, 3, 4, 4, 4],  # noqa: B006
        expansions: list[int] = [1, 1, 1, 1, 1, 1],  # noqa: B006
        reductions: list[int] = [12, 12, 12, 8, 8, 4],  # noqa: B006
        block_2d: Block2D = "convnext",
        block_1d: Block1D = "convolution_attention",
        group_size: int = 4,
        out_channels: int = 0,
        global_context: bool = True,
        embedding_norm: bool = False,
        embedding_dim: int = 192,
    ) -> None:
        super().__init__()
        _check_sizes(input_dim, channels, strides, blocks, expansions, reductions)
        check_at_least_one("redimnet", embedding_dim=embedding_dim)
        if out_channels < 0:
            raise UserError(f"redimnet: out_channels {out_channels} must be at least 0")
        self.embedding_dim = embedding_dim
        self.stage_count = len(strides)
        width = input_dim * channels
        self.backbone = nn.ModuleDict()
        self.backbone["stem"] = nn.Sequential(
            nn.Conv2d(1, channels, 3), nn.LayerNorm(channels, EPS)
        )
        bands = input_dim
        for index, stride in enumerate(strides):
            layers: list[nn.Module] = [Weights(index + 1, width)]
            inside = channels * stride * expansions[index]
            layers.append(Reshape())
            layers.append(nn.Conv2d(channels, inside, (stride, 1), (stride, 1)))
            channels *= stride
            bands //= stride
            for _ in range(blocks[index]):
                layers.append(MapBlock(block_2d, inside, bands, group_size))
            if expansions[index] != 1:
                layers.append(Squeeze(inside, channels, group_size))
            layers.append(Reshape())
            if reductions[index]:
                layers.append(TimeBlock(width, width // reductions[index], block_1d))
            self.backbone[f"stage{index}"] = Stage(layers, channels // stride)
        self.backbone["fin_wght1d"] = Weights(len(strides) + 1, width)
        if out_channels:
            self.backbone["mfa"] = nn.Sequential(
                nn.Conv1d(width, out_channels, 1), nn.BatchNorm1d(out_channels)
            )
        pooled = out_channels or width
        self.pool = TanhAttention(pooled, global_context=global_context)
        self.bn = nn.BatchNorm1d(2 * pooled)
        self.linear = nn.Linear(2 * pooled, embedding_dim)
        self.bn2 = nn.BatchNorm1d(embedding_dim) if embedding_norm else None

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the stages; each gives frames (B, F, M x C)."""
        return {f"stage{n}": self.backbone[f"stage{n}"] for n in range(self.stage_count)}

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the BatchNorm of the pooled statistics, the linear layer, and its BatchNorm."""
        layers: dict[str, nn.Module] = {"bn": self.bn, "linear": self.linear}
        if self.bn2 is not None:
            layers["bn2"] = self.bn2
        return layers

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M); see `Encoder.forward`."""
        frames = Frames.of(features, lengths)
        conv, norm = cast("tuple[nn.Conv2d, nn.LayerNorm]", tuple(self.backbone["stem"].children()))
        maps = norm(convolve(conv, frames.zero_padding(features)[:, :, :, None]))
        outputs = [frames.zero_padding(maps).flatten(2)]
        for index in range(self.stage_count):
            outputs.append(self.backbone[f"stage{index}"](outputs, frames))
        x = self.backbone["fin_wght1d"](outputs)
        if "mfa" in self.backbone:
            layer, batch_norm = cast(
                "tuple[nn.Conv1d, nn.BatchNorm1d]", tuple(self.backbone["mfa"].children())
            )
            x = normalise(batch_norm, convolve_frames(layer, x), frames.mask)
        embeddings: Tensor = self.linear(self.bn(self.pool(x, frames)))
        return embeddings if self.bn2 is None else self.bn2(embeddings)


def _check_sizes(
    input_dim: int,
    channels: int,
    strides: list[int],
    blocks: list[int],
    expansions: list[int],
    reductions: list[int],
) -> None:
    """Raise UserError for sizes that do not fit together."""
    count = len(strides)
    lists = (strides, blocks, expansions, reductions)
    if not 1 <= count <= MAX_STAGES or any(len(values) != count for values in lists):
        raise UserError(
            f"redimnet: {[len(values) for values in lists]} strides, blocks, expansions and"
            f" reductions; give as many of each, at most {MAX_STAGES}"
        )
    if channels < 1 or min(blocks) < 1 or max(blocks) > MAX_BLOCKS:
        raise UserError(
            f"redimnet: channels {channels} must be at least 1, blocks {blocks} between 1 and"
            f" {MAX_BLOCKS}"
        )
    for name, values in (("strides", strides), ("expansions", expansions)):
        if min(values) < 1 or max(values) > MAX_FACTOR:
            raise UserError(f"redimnet: {name} {values} must be between 1 and {MAX_FACTOR}")
    if input_dim % math.prod(strides):
        raise UserError(
            f"redimnet: {input_dim} features a frame are no multiple of {math.prod(strides)}, the"
            " product of the strides; choose one that is"
        )
    width = input_dim * channels
    for reduction in reductions:
        if reduction and (reduction < 0 or width // reduction % HEADS or reduction > width):
            raise UserError(
                f"redimnet: {width} channels over time divided by {reduction} are no multiple of"
                f" {HEADS}; choose another reduction"
            )


class Weights(nn.Module):
    """The sum of several outputs under weights for each channel, a softmax over the outputs."""

    w: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        if count > 1:
            self.w = nn.Parameter(torch.zeros(1, count, width, 1))
        else:  # one output has the weight 1; the released weights hold a zero in its place
            self.register_buffer("w", torch.zeros(1, 1, 1, 1))

    def forward(self, outputs: list[Tensor]) -> Tensor:
        """Add up `outputs`, each (B, F, width)."""
        if len(outputs) == 1:
            return outputs[0]
        weights = self.w.softmax(1)[0, :, :, 0]
        total = outputs[0] * weights[0]
        for output, weight in zip(outputs[1:], weights[1:], strict=True):
            total = torch.addcmul(total, output, weight.to(output.dtype))
        return total


class Reshape(nn.Module):
    """Stands where the released program changes between maps and frames; has no weights."""


class Stage(nn.Sequential):
    """Weighted outputs to maps, blocks over time and frequencies, and a block over time.

    Args:
        layers: in the order of the released program.
        channels: C of the maps at its beginning.
    """

    def __init__(self, layers: list[nn.Module], channels: int) -> None:
        super().__init__(*layers)
        self.channels = channels

    def forward(self, outputs: list[Tensor], frames: Frames) -> Tensor:  # type: ignore[override]
        """Map the outputs so far, each (B, F, M x C), to one more."""
        weights, _, conv, *blocks = self
        x = weights(outputs)
        maps: Tensor = x.view(*x.shape[:2], -1, self.channels)
        maps = frames.zero_padding(convolve(cast(nn.Conv2d, conv), maps))
        for block in blocks:
            maps = maps.flatten(2) if isinstance(block, Reshape) else block(maps, frames)
        return maps


PART = ReDimNet
