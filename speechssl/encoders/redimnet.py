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
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.batch_norm import normalise
from speechssl.nn.frames import Frames
from speechssl.nn.maps import convolve_frames
from speechssl.nn.pooling import TanhAttention

__all__ = ["PART", "ReDimNet"]

Block2D = Literal["convnext", "basic", "basic_gated"]
Block1D = Literal["attention", "convolution_attention"]

_HEADS = 4
_POSITION_KERNEL = 59
_CONTEXT_KERNELS = (7, 19, 31, 59)
_EPS = 1e-6
"""Added to variances by layer norms, and by the BatchNorm after expanded channels."""

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
        self.embedding_dim = embedding_dim
        self.stage_count = len(strides)
        width = input_dim * channels
        self.backbone = nn.ModuleDict()
        self.backbone["stem"] = nn.Sequential(
            nn.Conv2d(1, channels, 3), nn.LayerNorm(channels, _EPS)
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
        maps = norm(_apply(conv, frames.zero_padding(features)[:, :, :, None]))
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
        if reduction and (reduction < 0 or width // reduction % _HEADS or reduction > width):
            raise UserError(
                f"redimnet: {width} channels over time divided by {reduction} are no multiple of"
                f" {_HEADS}; choose another reduction"
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
        maps = frames.zero_padding(_apply(cast(nn.Conv2d, conv), maps))
        for block in blocks:
            maps = maps.flatten(2) if isinstance(block, Reshape) else block(maps, frames)
        return maps


class MapBlock(nn.Module):
    """A block over time and frequencies, under the name that the released weights have.

    Args:
        kind: setting `block_2d`.
        channels: of input and output.
        bands: M, frequencies of the maps.
        group_size: channels of a group; 0: all.
    """

    def __init__(self, kind: Block2D, channels: int, bands: int, group_size: int) -> None:
        super().__init__()
        self.conv_block: nn.Module
        if kind == "convnext":
            groups = _groups(channels, group_size)
            self.conv_block = ConvNeXt(nn.Conv2d(channels, channels, 3, groups=groups))
        else:
            self.conv_block = Basic(channels, bands, group_size, kind == "basic_gated")

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, M, C), zero in the padding, to the same shape."""
        y: Tensor = self.conv_block(x, frames)
        return y


def _groups(channels: int, group_size: int) -> int:
    """Return the number of groups of `group_size` channels (0: all of them).

    Raises:
        UserError: they do not divide.
    """
    if group_size < 0 or (group_size and channels % group_size):
        raise UserError(
            f"redimnet: {channels} channels of a stage are no multiple of group_size {group_size}"
        )
    return channels // group_size if group_size else 1


class ConvNeXt(nn.Module):
    """A grouped convolution, BatchNorm, GELU and a product, added to the input.

    Args:
        conv: over maps or frames, of as many channels as it takes.
    """

    def __init__(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        channels = conv.out_channels
        self.dwconvs = nn.ModuleList([conv])
        if isinstance(conv, nn.Conv2d):
            self.norm: nn.Module = nn.BatchNorm2d(channels)
            self.pwconv1: nn.Conv1d | nn.Conv2d = nn.Conv2d(channels, channels, 1)
        else:
            self.norm = nn.BatchNorm1d(channels)
            self.pwconv1 = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, C) or (B, F, M, C), zero in the padding, to the same shape."""
        y = _apply(cast("nn.Conv1d | nn.Conv2d", self.dwconvs[0]), x)
        y = F.gelu(normalise(self.norm, y, frames.mask))
        y = F.linear(y, self.pwconv1.weight.flatten(1), self.pwconv1.bias)
        return frames.zero_padding(x + y)


class Basic(nn.Module):
    """Two grouped 3x3 convolutions, each followed by a product, and the input added.

    Args:
        channels: of input and output.
        bands: M, frequencies of the maps.
        group_size: channels of a group; 0: all, and no products.
        has_gates: gates of frequencies before the input is added.
    """

    def __init__(self, channels: int, bands: int, group_size: int, has_gates: bool) -> None:
        super().__init__()
        groups = _groups(channels, group_size)
        self.conv1 = nn.Conv2d(channels, channels, 3, groups=groups, bias=False)
        self.conv1pw = nn.Conv2d(channels, channels, 1) if group_size else None
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, groups=groups, bias=False)
        self.conv2pw = nn.Conv2d(channels, channels, 1) if group_size else None
        self.bn2 = nn.BatchNorm2d(channels)
        bottleneck = min(64, max(channels, 32))
        self.se = Gates(bands, bottleneck) if has_gates else None

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, M, C), zero in the padding, to the same shape."""
        y = _apply(self.conv1, x)
        if self.conv1pw is not None:
            y = _apply(self.conv1pw, y)
        y = normalise(self.bn1, torch.relu(y), frames.mask)
        y = _apply(self.conv2, y)
        if self.conv2pw is not None:
            y = _apply(self.conv2pw, y)
        y = normalise(self.bn2, y, frames.mask)
        if self.se is not None:
            y = y * self.se(y, frames)
        return torch.relu(y + x)


class Gates(nn.Module):
    """Gates of frequencies, from their means over channels and valid frames.

    The misspelt name is that of the released weights.
    """

    def __init__(self, bands: int, bottleneck: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(bands, bottleneck)
        self.exitation = nn.Linear(bottleneck, bands)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Return gates (B, 1, M, 1), between 0 and 1, for maps (B, F, M, C), in their type."""
        hidden = torch.relu(self.squeeze(frames.mean(x.mean(3))))
        gates = torch.sigmoid(self.exitation(hidden))
        return gates[:, None, :, None].to(x.dtype)


class Squeeze(nn.Sequential):
    """A grouped 3x3 convolution from expanded channels back, BatchNorm, GELU and a product."""

    def __init__(self, inside: int, channels: int, group_size: int) -> None:
        groups = _groups(channels, group_size)
        super().__init__(
            nn.Conv2d(inside, channels, 3, groups=groups),
            nn.BatchNorm2d(channels, _EPS),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor, frames: Frames) -> Tensor:  # type: ignore[override]
        """Map `x` (B, F, M, inside) to (B, F, M, channels)."""
        conv, norm, _, product = self
        y = F.gelu(normalise(norm, _apply(cast(nn.Conv2d, conv), x), frames.mask))
        return frames.zero_padding(_apply(cast(nn.Conv2d, product), y))


class TimeBlock(nn.Module):
    """Fewer channels, context over time, and back; added to the input.

    Args:
        width: channels over time.
        inside: channels of the context.
        kind: attention after an encoding of positions by a convolution, or after four blocks of
            convolutions.
    """

    def __init__(self, width: int, inside: int, kind: Block1D) -> None:
        super().__init__()
        self.red_dim_conv = nn.Sequential(nn.Conv1d(width, inside, 1), nn.LayerNorm(inside, _EPS))
        self.tcm = nn.ModuleList()
        if kind == "attention":
            self.tcm.append(Positions(inside))
            self.tcm.append(Attention(inside, 2 * inside))
        else:
            for kernel in _CONTEXT_KERNELS:
                conv = nn.Conv1d(inside, inside, kernel, padding=kernel // 2, groups=inside)
                self.tcm.append(ConvNeXt(conv))
            self.tcm.append(Attention(inside, inside))
        self.exp_dim_conv = nn.Conv1d(inside, width, 1)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, width), zero in the padding, to the same shape."""
        conv, norm = cast("tuple[nn.Conv1d, nn.LayerNorm]", tuple(self.red_dim_conv.children()))
        y = frames.zero_padding(norm(convolve_frames(conv, x)))
        for layer in self.tcm:
            y = layer(y, frames)
        return frames.zero_padding(x + convolve_frames(self.exp_dim_conv, y))


class Positions(nn.Module):
    """A convolution of each channel over 59 frames, as an encoding of positions, with a layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            channels, channels, _POSITION_KERNEL, padding=_POSITION_KERNEL // 2, groups=channels
        )
        self.norm = nn.LayerNorm(channels, _EPS)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, C), zero in the padding, to the same shape."""
        y: Tensor = self.norm(convolve_frames(self.conv, x))
        return x + y


class Attention(nn.Module):
    """A Transformer layer: attention of four heads and two products, each with its layer norm behind."""

    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        names = ("k_proj", "v_proj", "q_proj", "out_proj")
        self.attention = nn.ModuleDict({name: nn.Linear(channels, channels) for name in names})
        self.layer_norm = nn.LayerNorm(channels, _EPS)
        self.feed_forward = nn.ModuleDict()
        self.feed_forward["intermediate_dense"] = nn.Linear(channels, inside)
        self.feed_forward["output_dense"] = nn.Linear(inside, channels)
        self.final_layer_norm = nn.LayerNorm(channels, _EPS)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, C) to the same shape; what it has in the padding means nothing."""
        mask = None if frames.mask is None else frames.mask[:, None, None, :]
        query, key, value = (self._heads(name, x) for name in ("q_proj", "k_proj", "v_proj"))
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.layer_norm(x + self.attention["out_proj"](context.transpose(1, 2).flatten(2)))
        hidden = F.gelu(self.feed_forward["intermediate_dense"](x), approximate="tanh")
        y: Tensor = self.final_layer_norm(x + self.feed_forward["output_dense"](hidden))
        return y

    def _heads(self, name: str, x: Tensor) -> Tensor:
        """Return a projection of `x` (B, F, C) as heads (B, 4, F, C / 4)."""
        projected: Tensor = self.attention[name](x)
        return projected.view(*x.shape[:2], _HEADS, -1).transpose(1, 2)


def _apply(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution padded with zeros.

    Args:
        conv: over frames; or over frequencies and frames, with a stride over frequencies.
        x: (B, F, C), or maps (B, F, M, C), zero in the padding.
    """
    if isinstance(conv, nn.Conv1d):
        return convolve_frames(conv, x)
    bands, frames = conv.kernel_size
    pad = (frames // 2, bands // 2 if conv.stride[0] == 1 else 0)
    y = F.conv2d(
        x.permute(0, 3, 1, 2),
        conv.weight.transpose(2, 3),
        conv.bias,
        stride=(conv.stride[1], conv.stride[0]),
        padding=pad,
        groups=conv.groups,
    )
    return y.permute(0, 2, 3, 1).contiguous()


PART = ReDimNet
