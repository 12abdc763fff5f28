"""Encode the views of a batch, all of them together or one at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import Views


def encode(encoder: nn.Module, views: Views) -> Tensor:
    """Encode the views of one group, which have one length.

    They are one batch, so BatchNorm's statistics are those of all of them; with
    `views.per_view` each view is a batch of its own, one after the other.

    Args:
        encoder: an `interfaces.Encoder`, or a compiled one.
        views: features (V, B, F, M).

    Returns:
        Embeddings (V, B, D).
    """
    if views.per_view:
        return torch.stack([encoder(view) for view in views.features])
    count, batch = views.features.shape[:2]
    embeddings: Tensor = encoder(views.features.flatten(0, 1))
    return embeddings.view(count, batch, -1)
