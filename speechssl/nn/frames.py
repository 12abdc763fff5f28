"""Valid frames of a padded batch: masks, lengths, means."""

from __future__ import annotations

import torch
from torch import Tensor

_PART = 1 << 18  # elements worked on at a time on a CPU: 1 MB in float32, which stays in the cache


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums over frames are taken: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


class Frames:
    """Which frames of a padded batch are real, and where reflection at each utterance's own end
    leads.

    Built once a forward pass. `lengths` (B,) counts the valid frames; None means that all are, and
    is the fast path: no masks, no gathers.
    """

    def __init__(
        self, batch: int, frames: int, lengths: Tensor | None, device: torch.device
    ) -> None:
        self.frames = frames
        self.lengths = None if lengths is None else lengths.to(device).clamp(1, frames)
        self.mask: Tensor | None = None
        if self.lengths is not None:
            self.mask = torch.arange(frames, device=device)[None, :] < self.lengths[:, None]
        self.device = device
        self.batch = batch
        self._reflections: dict[int, Tensor] = {}

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the valid frames of `x` (B, F, C): (B, C), float32."""
        if self.mask is None or self.lengths is None:
            return x.mean(1, dtype=precise(x.dtype))
        kept = x.masked_fill(~self.mask[:, :, None], 0.0)
        return kept.sum(1, dtype=precise(x.dtype)) / self.lengths[:, None]

    def pad(self, x: Tensor, pad: int) -> Tensor:
        """Reflect `x` (B, F, C) about its first and last valid frame: (B, F + 2 * pad, C)."""
        if self.lengths is None and self.frames > pad:
            head = x[:, 1 : pad + 1].flip(1)
            tail = x[:, self.frames - pad - 1 : self.frames - 1].flip(1)
            return torch.cat([head, x, tail], 1)
        index = self._reflection(pad)
        return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))

    def _reflection(self, pad: int) -> Tensor:
        """Frame that each of the F + 2 * pad positions repeats, (B, F + 2 * pad); short utterances
        bounce.
        """
        if pad not in self._reflections:
            lengths = self.lengths
            if lengths is None:
                lengths = torch.full((self.batch,), self.frames, device=self.device)
            position = torch.arange(-pad, self.frames + pad, device=self.device)[None, :]
            last = (lengths - 1)[:, None]
            period = (2 * last).clamp(min=1)
            position = position.remainder(period)
            self._reflections[pad] = torch.minimum(position, period - position).minimum(last)
        return self._reflections[pad]
