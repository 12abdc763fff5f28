"""The crop plan as data, and a batch of crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from speechssl.errors import UserError

LEVELS = ("full", "mild", "none")
RECEIVERS = ("both", "student", "teacher")


class Augmenter(Protocol):
    """What the data set asks of an augmentation (`speechssl.augment.augment.Augment` is one).

    Attributes:
        context_samples: samples before a crop that it needs for the reverberation.
        speed: factors of which one is drawn for an utterance.
    """

    context_samples: int
    speed: tuple[float, ...]

    def draw(
        self, rng: np.random.Generator, count: int, samples: int, level: str = "full"
    ) -> np.ndarray:
        """Draw what to do with `count` crops of `samples` samples, (count,) records."""
        ...

    def apply(self, waves: Tensor, plan: np.ndarray, context: int = 0) -> Tensor:
        """Augment crops (..., context + T) as drawn, and return (..., T)."""
        ...


@dataclass(frozen=True)
class CropSpec:
    """One group of the crop plan: crops of one length.

    Args:
        count: crops of each utterance.
        seconds: length of a crop.
        augment: level of augmentation, one of `LEVELS`.
        to: the network that sees them, one of `RECEIVERS`.

    Raises:
        UserError: a count below 1, a length outside 0.05..600 s, or an unknown level or receiver.
    """

    count: int
    seconds: float
    augment: str = "full"
    to: str = "both"

    def __post_init__(self) -> None:
        if self.count < 1 or not 0.05 <= self.seconds <= 600:
            raise UserError(
                f"crops: count={self.count}, seconds={self.seconds:g}: count must be at least 1,"
                " and seconds between 0.05 and 600"
            )
        if self.augment not in LEVELS or self.to not in RECEIVERS:
            raise UserError(
                f"crops: augment={self.augment!r}, to={self.to!r}; "
                "choose augment full|mild|none and to both|student|teacher"
            )


def parse_plan(groups: Sequence[Mapping[str, Any]]) -> list[CropSpec]:
    """Return the crop plan of a configuration, a list of {count, seconds, augment, to}.

    Raises:
        UserError: an empty plan, an unknown or missing key, or a nonsensical value.
    """
    if not groups:
        raise UserError("crops: the plan is empty; give at least one {count: 2, seconds: 3.0}")
    known = set(CropSpec.__dataclass_fields__)
    for number, group in enumerate(groups):
        if not isinstance(group, Mapping) or not {"count", "seconds"} <= set(group) <= known:
            raise UserError(
                f"crops[{number}]: {group} needs count and seconds, and may have augment and to"
            )
    return [CropSpec(**dict(group)) for group in groups]


@dataclass
class Batch:
    """One step's crops.

    Attributes:
        step: the step it belongs to.
        groups: for each group of the plan, (count, B, T) float32 samples; with `plans`, (count, B,
            context + T).
        indices: (B,) int64, places of the utterances in the list that the data set was given.
        skipped: (id, reason) of the utterances that could not be read and were replaced.
        plans: with augmentation left to the device, what `Augment.apply` is to do with each group;
            None if it is done.
        context: samples of left context that `apply` is to cut.
    """

    step: int
    groups: list[Tensor]
    indices: Tensor
    skipped: list[tuple[str, str]] = field(default_factory=list)
    plans: list[np.ndarray] | None = None
    context: int = 0

    def pin_memory(self) -> Batch:
        """Move the crops to page-locked memory and return the batch (torch's loader calls this)."""
        self.groups = [group.pin_memory() for group in self.groups]
        return self

    def on(self, device: torch.device | str, augment: Augmenter | None = None) -> list[Tensor]:
        """Return the finished crops, (count, B, T) for each group, on a device.

        They are augmented there if that was left to it.

        Args:
            device: where to.
            augment: the data set's augmentation with its banks on `device` (`Augment.to`); needed
                with `plans`.
        """
        moved = [group.to(device, non_blocking=True) for group in self.groups]
        if self.plans is None:
            return moved
        if augment is None:
            raise ValueError(
                "this batch leaves its augmentation to the device: pass the augmentation"
            )
        pairs = zip(moved, self.plans, strict=True)
        return [augment.apply(waves, plan, self.context) for waves, plan in pairs]
