"""SpecAugment: masks in time and frequency on features (Park et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from speechssl.errors import UserError


class SpecAugment:
    """Masks on normalised features: masked values become 0, the band's mean.

    Widths are uniform from 0 to the widest.

    Args:
        time_masks: number of masks over frames.
        time_width: frames of the widest of them.
        freq_masks: number of masks over bands.
        freq_width: bands of the widest of them.

    Raises:
        UserError: a negative number.
    """

    def __init__(
        self, *, time_masks: int = 0, time_width: int = 20, freq_masks: int = 0, freq_width: int = 8
    ) -> None:
        if min(time_masks, time_width, freq_masks, freq_width) < 0:
            raise UserError("specaugment: the numbers and widths of masks cannot be negative")
        self.time_masks = time_masks
        self.time_width = time_width
        self.freq_masks = freq_masks
        self.freq_width = freq_width

    def __call__(
        self,
        features: Tensor,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
        total: int | None = None,
    ) -> Tensor:
        """Mask each utterance on its own.

        Where the batch is one process's part of a larger one, all processes draw the masks of all
        utterances: each has the same masks however many processes there are.

        Args:
            features: (B, F, M).
            generator: of the masks; None: torch's own.
            rows: (B,) which utterances of the larger batch these are; None: 0 to B - 1.
            total: number of utterances of the larger batch; None: B.

        Returns:
            (B, F, M).
        """
        batch, frames, bands = features.shape
        count = batch if total is None else total
        chosen = torch.arange(batch) if rows is None else rows
        if self.time_masks:
            masks = random_masks(count, frames, self.time_masks, self.time_width, generator)
            masked = masks[chosen.to(masks.device)].to(features.device)
            features = features.masked_fill(masked.unsqueeze(2), 0.0)
        if self.freq_masks:
            masks = random_masks(count, bands, self.freq_masks, self.freq_width, generator)
            masked = masks[chosen.to(masks.device)].to(features.device)
            features = features.masked_fill(masked.unsqueeze(1), 0.0)
        return features


def random_masks(
    batch: int, size: int, masks: int, width: int, generator: torch.Generator | None
) -> Tensor:
    """Draw random stretches of an axis, on the generator's device.

    Args:
        batch: number of utterances.
        size: length of the axis.
        masks: stretches of each utterance.
        width: longest stretch.
        generator: None: torch's own.

    Returns:
        (batch, size) bool, True inside a stretch.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    draws = torch.rand(2, batch, masks, 1, generator=generator, device=device)
    widths = (draws[0] * (min(width, size) + 1)).long()
    starts = (draws[1] * (size - widths + 1)).long()
    place = torch.arange(size, device=device)
    inside = (place >= starts) & (place < starts + widths)
    return inside.any(dim=1)
