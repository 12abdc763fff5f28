"""The teacher by hand."""

import torch
from torch import nn

from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.schedules import cosine_schedule


def test_the_teacher_is_a_copy_without_gradient() -> None:
    student = nn.Linear(3, 2)
    teacher = teacher_of(student)
    assert torch.equal(teacher.weight, student.weight) and not teacher.weight.requires_grad
    assert student.weight.requires_grad and teacher.weight is not student.weight


def test_parameters_are_averaged_and_buffers_as_asked() -> None:
    for buffers, mean in (("own", 1.0), ("copy", 5.0), ("ema", 0.9 * 1 + 0.1 * 5)):
        student = nn.BatchNorm1d(2)
        teacher = teacher_of(student)
        nn.init.constant_(student.weight, 2.0)
        student.running_mean.fill_(5.0)
        student.num_batches_tracked.fill_(7)
        teacher.running_mean.fill_(1.0)
        ema_update(teacher, student, 0.9, buffers)
        torch.testing.assert_close(teacher.weight, torch.full((2,), 0.9 * 1 + 0.1 * 2))
        torch.testing.assert_close(teacher.running_mean, torch.full((2,), mean))
        assert int(teacher.num_batches_tracked) == 0  # a count is not averaged


def test_the_momentum_rises_by_half_a_cosine() -> None:
    values = [cosine_schedule(0.9, 1.0, fraction) for fraction in (0.0, 0.5, 1.0, 2.0)]
    torch.testing.assert_close(torch.tensor(values), torch.tensor([0.9, 0.95, 1.0, 1.0]))
