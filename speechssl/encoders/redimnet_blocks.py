"""The blocks of ReDimNet (`redimnet.py`): over time and frequencies, and over time.

Maps are (B, F, M, C): batch, frames, frequencies, channels. Names of submodules are those of the
released weights, whose kernels are over frequencies first, then frames.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.nn.batch_norm import normalise
from speechssl.nn.frames import Frames
from speechssl.nn.maps import convolve_frames

Block2D = Literal["convnext", "basic", "basic_gated"]
Block1D = Literal["attention", "convolution_attention"]

HEADS = 4
"""Of attention; the channels inside a block over time are a multiple of them."""

_POSITION_KERNEL = 59
_CONTEXT_KERNELS = (7, 19, 31, 59)
EPS = 1e-6
"""Added to variances by layer norms, and by the BatchNorm after expanded channels."""


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
        y = convolve(cast("nn.Conv1d | nn.Conv2d", self.dwconvs[0]), x)
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
        y = convolve(self.conv1, x)
        if self.conv1pw is not None:
            y = convolve(self.conv1pw, y)
        y = normalise(self.bn1, torch.relu(y), frames.mask)
        y = convolve(self.conv2, y)
        if self.conv2pw is not None:
            y = convolve(self.conv2pw, y)
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
            nn.BatchNorm2d(channels, EPS),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor, frames: Frames) -> Tensor:  # type: ignore[override]
        """Map `x` (B, F, M, inside) to (B, F, M, channels)."""
        conv, norm, _, product = self
        y = F.gelu(normalise(norm, convolve(cast(nn.Conv2d, conv), x), frames.mask))
        return frames.zero_padding(convolve(cast(nn.Conv2d, product), y))


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
        self.red_dim_conv = nn.Sequential(nn.Conv1d(width, inside, 1), nn.LayerNorm(inside, EPS))
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
        self.norm = nn.LayerNorm(channels, EPS)

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
        self.layer_norm = nn.LayerNorm(channels, EPS)
        self.feed_forward = nn.ModuleDict()
        self.feed_forward["intermediate_dense"] = nn.Linear(channels, inside)
        self.feed_forward["output_dense"] = nn.Linear(inside, channels)
        self.final_layer_norm = nn.LayerNorm(channels, EPS)

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
        return projected.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def convolve(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
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
