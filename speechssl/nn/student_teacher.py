"""What a student and a teacher see of the views of a batch, and which of it is compared (DINO)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.interfaces import Views
from speechssl.nn.dino_head import DinoNetwork
from speechssl.nn.encoding import encode


class Seen(NamedTuple):
    """What a network makes of the views that it sees.

    Attributes:
        embeddings: (V, B, D).
        logits: (V, B, K).
        layer: (V, B, R), the layer that RDINO regularises.
        views: for each of the V views its group in the crop plan and its number in the
            group.
        first_group: how many of the V views are in the first of their groups, which has
            the longest crops.
    """

    embeddings: Tensor
    logits: Tensor
    layer: Tensor
    views: list[tuple[int, int]]
    first_group: int


def other_pairs(teacher: Seen, student: Seen) -> Tensor:
    """Return (U, V) bool: all pairs but those of the same view on both sides."""
    return _different(tuple(teacher.views), tuple(student.views), student.logits.device)


@lru_cache(maxsize=16)
def _different(
    views: tuple[tuple[int, int], ...], others: tuple[tuple[int, int], ...], device: torch.device
) -> Tensor:
    """Return (U, V) bool, whether a view is another one; copied to the device only once."""
    rows = []
    for view in views:
        rows.append([view != other for other in others])
    with torch.inference_mode(False):  # the next one to ask may want gradients
        return torch.tensor(rows, device=device)


def check_pairs(views: Sequence[Views]) -> None:
    """Raise UserError unless some view of the student has another view of the teacher to predict."""
    teacher_groups = [group for group in views if group.to != "student"]
    student_groups = [group for group in views if group.to != "teacher"]
    same_single_view = (
        len(student_groups) == 1
        and bool(teacher_groups)
        and teacher_groups[0].to == "both"
        and len(teacher_groups[0].features) < 2
    )
    if not teacher_groups or not student_groups or same_single_view:
        raise UserError(
            "dino: data.crops has no pair of views: the teacher needs a group (to: both or"
            " teacher), and the student another crop to compare with it; give {count: 2, seconds:"
            " 3.0} first"
        )


def run_views(
    net: DinoNetwork,
    views: Sequence[Views],
    role: str,
    prototypes: Tensor | None = None,
    *,
    head_by_length: bool = False,
) -> Seen:
    """Encode each group of views in one batch, and run the head on all of them.

    A teacher sees only the first group that is addressed to it (the long chunks).

    Args:
        net: encoder and head.
        views: the groups of the crop plan.
        role: ``student`` or ``teacher``.
        prototypes: (K, P) to compare with in place of the head's own.
        head_by_length: run the head on one group after the other, so that a BatchNorm
            in it sees crops of one length, and not once on all views together.
    """
    numbered = [(i, group) for i, group in enumerate(views) if group.to in ("both", role)]
    if role == "teacher":
        numbered = numbered[:1]
    of_groups = [encode(net.encoder, group) for _, group in numbered]
    embeddings = torch.cat(of_groups)
    num_views, batch_size = embeddings.shape[:2]
    head_inputs = of_groups if head_by_length else [embeddings]
    head_outputs = [net.head(part.flatten(0, 1), prototypes) for part in head_inputs]
    logits = torch.cat([logits for logits, _ in head_outputs])
    layer = torch.cat([layer for _, layer in head_outputs])
    names = []
    for i, group in numbered:
        names += [(i, view) for view in range(len(group.features))]
    return Seen(
        embeddings,
        logits.view(num_views, batch_size, -1),
        layer.view(num_views, batch_size, -1),
        names,
        first_group=len(numbered[0][1].features),
    )
