"""Sizes that an encoder cannot have: a user mistypes them, a model folder may be somebody else's."""

from __future__ import annotations

from collections.abc import Sequence

from speechssl.errors import UserError

MAX_FRAMES = 10_000
"""Bound of a kernel's and a dilation's frames, far beyond any use."""


def check_at_least_one(encoder: str, **sizes: int | None) -> None:
    """Raise UserError for a size that is given and below 1; `encoder` is its name."""
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"{encoder}: {name} {value} must be at least 1")


def check_kernels(encoder: str, kernel_sizes: Sequence[int], dilations: Sequence[int]) -> None:
    """Raise UserError for kernels and dilations that a `nn.convolution.Convolution` cannot have.

    Args:
        encoder: its name.
        kernel_sizes: frames that each layer sees.
        dilations: of each layer.
    """
    if any(size % 2 == 0 or not 0 < size <= MAX_FRAMES for size in kernel_sizes):
        raise UserError(
            f"{encoder}: kernel_sizes {kernel_sizes} must be odd numbers, at most {MAX_FRAMES}"
        )
    if any(not 0 < dilation <= MAX_FRAMES for dilation in dilations):
        raise UserError(f"{encoder}: dilations {dilations} must be between 1 and {MAX_FRAMES}")
