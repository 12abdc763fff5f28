"""Valid frames of a padded batch: masks, means, and reflection at each utterance's own end."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Frames", "accumulation_dtype"]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums over frames are taken: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


class Frames:
    """Which frames of a padded batch are valid.

    An encoder makes one for each forward pass, and another one wherever it strides over
    frames. Without lengths every frame is valid; that path needs no masks and no
    gathers.

    Args:
        batch: B, utterances.
        count: F, frames of each row, padding included.
        lengths: (B,) valid frames of each row; None: all F.
        device: where masks and indices are made.

    Attributes:
        lengths: (B,) valid frames, between 1 and F, or None.
        mask: (B, F) bool, True where a frame is valid, or None.
    """

    def __init__(
        self, batch: int, count: int, lengths: Tensor | None, device: torch.device
    ) -> None:
        self.batch = batch
        self.count = count
        self.device = device
        self.lengths: Tensor | None = None
        self.mask: Tensor | None = None
        if lengths is not None:
            self.lengths = lengths.to(device).clamp(1, count)
            self.mask = torch.arange(count, device=device)[None, :] < self.lengths[:, None]
        self._reflections: dict[int, Tensor] = {}

    @classmethod
    def of(cls, x: Tensor, lengths: Tensor | None) -> Frames:
        """Return the frames of `x` (B, F, ...), of which `lengths` (B,) are valid (None: all)."""
        return cls(x.shape[0], x.shape[1], lengths, x.device)

    def strided(self, count: int, stride: int) -> Frames:
        """Return the frames of a convolution's output, which has `count` of them.

        The convolution is padded so that `stride` 1 keeps the number of frames: an
        utterance of n frames becomes one of ceil(n / stride).
        """
        if stride == 1:
            return self
        lengths = None if self.lengths is None else (self.lengths + stride - 1) // stride
        return Frames(self.batch, count, lengths, self.device)

    def zero_padding(self, x: Tensor) -> Tensor:
        """Return `x` (B, F, ...) with zeros in place of the padding, whatever it holds."""
        if self.mask is None:
            return x
        extra_dims = x.dim() - self.mask.dim()
        mask = self.mask.view(*self.mask.shape, *[1] * extra_dims)
        return x.masked_fill(~mask, 0.0)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the valid frames of `x` (B, F, C): (B, C), at least float32."""
        dtype = accumulation_dtype(x.dtype)
        if self.lengths is None:
            return x.mean(1, dtype=dtype)
        return self.zero_padding(x).sum(1, dtype=dtype) / self.lengths[:, None]

    def pad(self, x: Tensor, pad: int) -> Tensor:
        """Reflect `x` (B, F, C) about each utterance's first and last valid frame.

        Returns:
            (B, F + 2 * pad, C). What follows an utterance's reflected end is arbitrary.
        """
        if self.lengths is None and self.count > pad:
            head = x[:, 1 : pad + 1].flip(1)
            tail = x[:, self.count - pad - 1 : self.count - 1].flip(1)
            return torch.cat([head, x, tail], 1)
        index = self._reflection(pad)
        return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))

    def _reflection(self, pad: int) -> Tensor:
        """Return the frame that each of the F + 2 * pad positions repeats, (B, F + 2 * pad).

        An utterance shorter than `pad` is reflected again and again: 0 1 2 1 0 1 2 ...
        """
        if pad not in self._reflections:
            lengths = self.lengths
            if lengths is None:
                lengths = torch.full((self.batch,), self.count, device=self.device)
            last = (lengths - 1)[:, None]
            period = (2 * last).clamp(min=1)
            position = torch.arange(-pad, self.count + pad, device=self.device)[None, :]
            position = position.remainder(period)
            self._reflections[pad] = torch.minimum(position, period - position).minimum(last)
        return self._reflections[pad]
