"""The teacher: a moving average of the student, and the schedule of its momentum."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import nn

__all__ = ["ema_update", "teacher_of"]

Network = TypeVar("Network", bound=nn.Module)


def teacher_of(student: Network) -> Network:
    """Return a copy of `student` whose parameters never receive gradient."""
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    return teacher


@torch.no_grad()
def ema_update(
    teacher: nn.Module,
    student: nn.Module,
    momentum: float,
    buffers: Literal["own", "copy", "ema"] = "own",
) -> None:
    """Set the teacher's parameters to momentum * teacher + (1 - momentum) * student.

    Args:
        teacher: changed in place, all parameters in one fused pass.
        student: a network of the same structure.
        momentum: weight of the teacher's old parameters.
        buffers: what happens to floating-point buffers (BatchNorm statistics): the
            teacher keeps those of its own forward passes (`own`, as all released
            programs do), takes the student's (`copy`), or averages them as well
            (`ema`).
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
    if buffers == "own":
        return
    step = 1.0 if buffers == "copy" else 1.0 - momentum
    for target, source in zip(teacher.buffers(), student.buffers(), strict=True):
        if target.is_floating_point():
            target.lerp_(source, step)
