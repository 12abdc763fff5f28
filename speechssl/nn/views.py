"""Encoding the views of a batch, and a context for what must stay in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import Views

__all__ = ["encode", "in_float32"]


def in_float32(x: Tensor) -> torch.autocast:
    """Return a context without autocast on the device of `x`.

    For losses, centring, Sinkhorn, covariances and decompositions.
    """
    return torch.autocast(x.device.type, enabled=False)


def encode(encoder: nn.Module, views: Views) -> Tensor:
    """Encode the views of one group, which have one length, in one batch.

    Args:
        encoder: an `interfaces.Encoder`, or a compiled one.
        views: features (V, B, F, M).

    Returns:
        Embeddings (V, B, D).
    """
    count, batch = views.features.shape[:2]
    embeddings: Tensor = encoder(views.features.flatten(0, 1))
    return embeddings.view(count, batch, -1)
