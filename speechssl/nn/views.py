"""Encoding the views of a batch, who is no negative of whom, and what must stay in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Views

__all__ = ["encode", "in_float32", "joined_groups", "same_group"]


def in_float32(x: Tensor) -> torch.autocast:
    """Return a context without autocast on the device of `x`.

    For losses, centring, Sinkhorn, covariances and decompositions.
    """
    return torch.autocast(x.device.type, enabled=False)


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


def joined_groups(views: Views) -> Tensor | None:
    """Return the groups (N,) int64 of all processes' utterances; None if there are none."""
    if views.groups is None:
        return None
    return gather_without_gradient(views.groups[None])[0]


def same_group(one: Tensor, two: Tensor) -> Tensor:
    """Return (A, B) bool: whether two utterances have the same group.

    Args:
        one: (A,) int64 groups, -1 for none: of the same group as nobody.
        two: (B,) int64.
    """
    return (one[:, None] == two) & (one[:, None] >= 0)
