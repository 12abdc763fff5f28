"""Encoding the views of a batch, and a context for what must stay in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.interfaces import Views


def in_float32(x: Tensor) -> torch.autocast:
    """A context without autocast, for losses, centring, Sinkhorn, covariances and
    decompositions.
    """
    return torch.autocast(x.device.type, enabled=False)


def encode(encoder: nn.Module, views: Views) -> Tensor:
    """Embeddings (V, B, D) of one group, encoded in one batch of its one length."""
    count, batch = views.features.shape[:2]
    return encoder(views.features.flatten(0, 1)).view(count, batch, -1)
