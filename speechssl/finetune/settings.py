"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How a classifier is trained.

    Attributes:
        affine_steps: optimiser steps of the first stage, which trains the layers after
            pooling.
        affine_lr: learning rate at the start of the first stage.
        epochs: epochs of the second stage, which trains everything; 0 leaves it out.
        lr: learning rate at the start of the second stage.
        batch_size: utterances in a batch.
        seconds: length of the crops of the second stage; a shorter utterance is taken
            whole.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        class_weight: ``balanced``: all classes count alike in the loss; ``none``: all
            utterances do.
        precision: of the encoder's matrix products in the second stage.
        seed: of the labels that are drawn, their order and the crops.
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
