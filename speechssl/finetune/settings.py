"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a classifier is trained.

    Attributes:
        affine_steps, affine_lr: batches and first learning rate of the first step.
        epochs, lr: of the second step; 0 epochs leave it out.
        batch_size: utterances in a batch. seconds: length of the crops; shorter utterances are
            whole.
        weight_decay: AdamW's. clip: largest norm of the gradient.
        class_weight: whether the loss counts classes alike, or as often as they occur.
        precision: of the encoder's products in the second step.
        seed: of labels drawn, order and crops.
    """

    affine_steps: int = 300
    affine_lr: float = 1e-3
    epochs: int = 5
    lr: float = 2e-4
    batch_size: int = 32
    seconds: float = 3.0
    weight_decay: float = 0.01
    clip: float = 3.0
    class_weight: Literal["balanced", "none"] = "balanced"
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    seed: int = 0
