"""Groups of utterances (a session, a cluster), whose members are no negatives of each other."""

from __future__ import annotations

from torch import Tensor

from speechssl.distributed import gather_without_gradient
from speechssl.interfaces import Views


def joined_groups(views: Views) -> Tensor | None:
    """Return the groups (N,) int64 of all processes' utterances; None if there are none."""
    if views.groups is None:
        return None
    return gather_without_gradient(views.groups[None])[0]


def same_group(one: Tensor, two: Tensor) -> Tensor:
    """Return (A, B) bool: whether two utterances have the same group.

    Args:
        one: (A,) int64 groups, -1 where it is unknown: equal to no other row.
        two: (B,) int64.
    """
    return (one[:, None] == two) & (one[:, None] >= 0)
