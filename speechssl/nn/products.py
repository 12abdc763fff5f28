"""Products of many rows with a weight in float32, by the faster of torch's two libraries.

On a CPU, torch hands `F.linear` in float32 to its BLAS, which is MKL in the builds of
PyPI, and a convolution to oneDNN. A linear layer is a convolution with a kernel of one
pixel, so both can compute it. MKL runs AVX2 code on processors that are not Intel's;
oneDNN compiles kernels for whatever the processor has. GFLOP/s of one core, 1,200 rows,
512 to 512 channels:

| | MKL | oneDNN |
|---|---|---|
| AMD Zen 4, forward; to the input; to the weight | 88; 87; 91 | 98; 98; 87 |
| AMD Zen 5, forward | 90 | 172 |

The rule is the processor and not a measurement at start, so that the same command gives
the same bits each time. `python -m egs.bench.encoder` measures both. The environment
variable SPEECHSSL_FLOAT32_KERNEL (`mkl` or `onednn`) overrules it, and a training run
keeps the kernel that it was started with (`train.float32_kernel`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.nn.recording import is_recorded

__all__ = [
    "KERNEL_VARIABLE",
    "Kernel",
    "choose_kernel",
    "kernel_of_processor",
    "linear",
    "select_kernel",
    "using_kernel",
]

Kernel = Literal["mkl", "onednn"]

KERNEL_VARIABLE = "SPEECHSSL_FLOAT32_KERNEL"

# torch gives smaller inputs of a convolution to a kernel of its own.
_MAX_SMALL_INPUT = 20_480
# oneDNN's backward pass crashed with 8 to 16 channels (torch 2.13, strided kernels).
_MIN_CHANNELS = 64

_selected: Kernel | None = None
"""What `select_kernel` chose for this process; None: what `choose_kernel` says."""


def choose_kernel(requested: Literal["auto"] | Kernel = "auto") -> Kernel:
    """Return the kernel of float32 products: what was requested, or the processor's for `auto`.

    Raises:
        UserError: SPEECHSSL_FLOAT32_KERNEL names no kernel.
    """
    if requested != "auto":
        return requested
    wanted = os.environ.get(KERNEL_VARIABLE, "auto")
    if wanted in get_args(Kernel):
        return cast(Kernel, wanted)
    if wanted not in ("", "auto"):
        raise UserError(f"{KERNEL_VARIABLE}={wanted}: give mkl, onednn or auto")
    return kernel_of_processor()


@functools.cache
def kernel_of_processor(cpuinfo: str | Path = "/proc/cpuinfo") -> Kernel:
    """Return oneDNN for a processor with AVX-512 that is not Intel's, else MKL.

    Args:
        cpuinfo: the kernel's description of the processors; without it: MKL.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "mkl"
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "mkl"
    first = text.split("\n\n", 1)[0].split()
    return "onednn" if "avx512f" in first and "GenuineIntel" not in first else "mkl"


def select_kernel(kernel: Kernel) -> None:
    """Compute float32 products with `kernel` from now on, in this process."""
    global _selected
    _selected = kernel


@contextmanager
def using_kernel(kernel: Kernel) -> Iterator[None]:
    """Compute float32 products with `kernel` inside a `with` block."""
    global _selected
    before = _selected
    _selected = kernel
    try:
        yield
    finally:
        _selected = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.linear(x, weight, bias)`, in float32 on a CPU by the selected kernel.

    A graph that is recorded for an export or a compiler holds `F.linear`.

    Args:
        x: (..., I), at least one leading dimension.
        weight: (O, I).
        bias: (O,) or None.

    Returns:
        (..., O).
    """
    if not _has_choice(x, weight) or (_selected or choose_kernel()) == "mkl":
        return F.linear(x, weight, bias)
    in_channels = x.shape[-1]
    rows = x.reshape(1, 1, -1, in_channels).permute(0, 3, 1, 2)  # (1, I, 1, N), channels last
    # The dilation of a kernel of one pixel means nothing, but torch gives dilated
    # convolutions to oneDNN also with one thread and one image.
    y = F.conv2d(rows, weight[:, :, None, None], bias, dilation=2)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def _has_choice(x: Tensor, weight: Tensor) -> bool:
    """True if both kernels can compute the product and it is large enough to matter."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or is_recorded():
        return False
    if torch.is_autocast_enabled("cpu") or min(weight.shape) < _MIN_CHANNELS:
        return False
    return x.numel() > _MAX_SMALL_INPUT
