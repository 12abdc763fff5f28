"""The moving-average teacher and the schedule of its momentum."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def teacher_of(student: Network) -> Network:
    """A copy that never receives gradient."""
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    return teacher


def cosine_schedule(start: float, end: float, fraction: float) -> float:
    """Half a cosine from ``start`` at fraction 0 to ``end`` at 1 (teacher momentum of BYOL and
    DINO).
    """
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, fraction))) / 2


@torch.no_grad()
def ema_update(
    teacher: nn.Module,
    student: nn.Module,
    momentum: float,
    buffers: Literal["own", "copy", "ema"] = "own",
) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, over the parameters in one fused
    pass.

    Args:
        buffers: what happens to floating-point buffers (BatchNorm statistics): the teacher keeps
            those of its own forward passes (``own``, as all released programs do), takes the
            student's (``copy``), or averages them as well (``ema``).
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
    if buffers == "own":
        return
    for target, source in _float_buffers(teacher, student):
        target.lerp_(source, 1.0 if buffers == "copy" else 1.0 - momentum)


def _float_buffers(teacher: nn.Module, student: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for target, source in zip(teacher.buffers(), student.buffers(), strict=True):
        if target.is_floating_point():
            yield target, source
