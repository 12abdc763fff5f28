"""Large products of an encoder in 8 bits, for embedding on a CPU.

A row of the weight has one scale, and so has each frame of the input, taken from the
frame itself (its largest magnitude becomes 127). Nothing is calibrated, so nothing
depends on other recordings: a frame has the same output in every batch. Products are
summed in 32 bits by oneDNN's kernels for VNNI and AMX, the ones to which PyTorch's own
quantisation for x86 compiles. What is not a large product stays as it was.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.nn.convolution import TDNN, Convolution
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import AttentiveStatistics

__all__ = ["Int8Product", "check_int8", "with_int8_products"]

EncoderT = TypeVar("EncoderT", bound=nn.Module)

_LARGEST = 127
_ZERO_POINT = 128  # of the input: the kernels multiply unsigned with signed numbers
_MIN_SCALE = 1e-30  # of a frame that is all zeros

# worked on at a time: 1 MB in float32, which stays in the cache
_BLOCK_ELEMENTS = 1 << 18

# Products with fewer channels are a small share of an encoder's time.
_MIN_CHANNELS = 256


class Int8Product(nn.Module):
    """A `Convolution` with a kernel of one frame, in 8 bits; for inference.

    Args:
        layer: whose weights it takes.
    """

    weight_scale: Tensor
    zero_points: Tensor
    bias: Tensor

    def __init__(self, layer: Convolution) -> None:
        super().__init__()
        weight = layer.conv.weight.detach().flatten(1).float()
        bias = layer.conv.bias
        self.out_channels, self.in_channels = weight.shape
        scale = weight.abs().amax(1).clamp(min=_MIN_SCALE) / _LARGEST
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self.register_buffer("weight_scale", scale)
        zero_points = torch.zeros(self.out_channels, dtype=torch.int64)
        self.register_buffer("zero_points", zero_points)
        self.register_buffer(
            "bias", torch.zeros_like(scale) if bias is None else bias.detach().float()
        )
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, x: Tensor, frames: Frames | None = None, relu: bool = False) -> Tensor:
        """Multiply; arguments and result as of `Convolution.forward`, in the type of `x`."""
        rows = x.reshape(-1, self.in_channels)
        y = torch.empty(rows.shape[0], self.out_channels, dtype=x.dtype)
        size = max(1, _BLOCK_ELEMENTS // max(self.in_channels, self.out_channels))
        for start in range(0, rows.shape[0], size):
            block = self._product(rows[start : start + size].float())
            y[start : start + size] = block.relu_() if relu else block
        return y.view(*x.shape[:-1], self.out_channels)

    def _product(self, rows: Tensor) -> Tensor:
        """Return the product (N, O) of a block of rows (N, I), float32."""
        scale = rows.abs().amax(1, keepdim=True).clamp_(min=_MIN_SCALE).div_(_LARGEST)
        signed = (rows / scale).round_().to(torch.int8)
        # Flipping the highest bit adds 128 and makes the number unsigned.
        unsigned = signed.view(torch.uint8).bitwise_xor_(_ZERO_POINT)
        product = torch.ops.onednn.qlinear_pointwise(
            unsigned,
            1.0,  # scale of the input: each row's own comes after the product
            _ZERO_POINT,
            self.packed,
            self.weight_scale,
            self.zero_points,
            None,  # bias
            1.0,  # output scale
            0,  # output zero point
            torch.float32,
            "none",  # activation
            [],
            "",
        )
        return torch.addcmul(self.bias, product, scale)


def check_int8(device: torch.device) -> None:
    """Raise UserError unless products in 8 bits are fast and exact there.

    Without VNNI or AMX the kernels add pairs of products in 16 bits, which overflow.
    """
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_instructions = torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()
    if device.type != "cpu" or not (has_onednn and has_instructions):
        raise UserError(
            "embed: precision int8 needs a CPU with VNNI or AMX instructions; choose auto,"
            " float32 or bfloat16"
        )


def with_int8_products(encoder: EncoderT) -> EncoderT:
    """Return a copy of an encoder whose large TDNN layers of one frame multiply in 8 bits.

    Pooling keeps its own layers, whose output goes into exponentials.

    Raises:
        UserError: it has no large product of frames: its time goes into other layers.
    """
    copied = copy.deepcopy(encoder)
    kept: set[nn.Module] = set()
    for module in copied.modules():
        if isinstance(module, AttentiveStatistics):
            kept.update(module.modules())
    large = []
    for module in copied.modules():
        if isinstance(module, TDNN) and module not in kept and _is_large(module.conv):
            large.append(module)
    for layer in large:
        layer.add_module("conv", Int8Product(layer.conv))
    if not large:
        raise UserError(
            "embed: precision int8: this encoder has no large products of frames to make"
            " faster; choose auto, float32 or bfloat16"
        )
    return copied


def _is_large(layer: Convolution) -> bool:
    channels = min(layer.conv.in_channels, layer.conv.out_channels)
    return layer.kernel_size == 1 and channels >= _MIN_CHANNELS
