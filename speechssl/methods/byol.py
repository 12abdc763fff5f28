"""BYOL: predict a moving-average teacher's projection of another view (Grill et al. 2020, NeurIPS).

    L = mean over pairs u != v of 2 - 2 cos(h(z_v), t_u)  in 0..4          (methods/README.md 2.1)

t comes from the moving average of encoder and projector; h is any of ``predictors/``.
The paper's h widens to 4,096 units; the default here is SimSiam's bottleneck of a
quarter of the projection (``predictor: {name: mlp, hidden: 4096}`` is the paper's).
Some programs sum the two directions, so their loss, from 0 to 8, and its gradient are
twice what they are here: double a weight of another term beside it. The teacher moves
after the optimiser's step, and its embedding is what users get. Its momentum rises from
0.996 to 1 by half a cosine (take 0.99 for short runs on small data). ``gsg``: see
losses/guided_stop_gradient.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from speechssl.interfaces import Encoder, Progress, Views
from speechssl.methods.simsiam import SimSiam
from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.schedules import cosine_schedule
from speechssl.nn.siamese import Projected, project


class Byol(SimSiam):
    """Student with predictor, and teacher.

    Args:
        encoder: the student's; the teacher is a copy of it.
        hidden, projection: sizes of the projector's two layers.
        output_norm: BatchNorm (without weights) after the projector; not in the paper.
        predictor: one of ``predictors/``.
        gsg: guided stop-gradient with 4 or 2 long views, 0 = off.
        teacher_momentum, teacher_momentum_end: of the moving average, by half a cosine.
        teacher_buffers: BatchNorm statistics of the teacher: those of its ``own`` forward
            passes, a ``copy`` of the student's, or their moving average (``ema``).
    """

    HIDDEN_LAYERS: ClassVar[int] = 1

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        output_norm: bool = False,
        predictor: Any = "mlp",
        gsg: Literal[0, 2, 4] = 0,
        teacher_momentum: float = 0.996,
        teacher_momentum_end: float = 1.0,
        teacher_buffers: Literal["own", "copy", "ema"] = "own",
    ) -> None:
        super().__init__(
            encoder,
            hidden=hidden,
            projection=projection,
            output_norm=output_norm,
            predictor=predictor,
            gsg=gsg,
        )
        self.teacher = teacher_of(self.net)
        self.teacher_momentum = teacher_momentum
        self.teacher_momentum_end = teacher_momentum_end
        self.teacher_buffers: Literal["own", "copy", "ema"] = teacher_buffers

    @property
    def encoder(self) -> Encoder:
        """The teacher's encoder."""
        return self.teacher.encoder

    def networks(self) -> dict[str, Encoder]:
        """Return the encoders of the trained network and of its moving average."""
        return {"student": self.net.encoder, "teacher": self.teacher.encoder}

    @torch.no_grad()
    def target(self, views: Sequence[Views], online: Projected) -> Projected:
        """Return the teacher's projections of the long views."""
        return project(self.teacher, views, long_only=True)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Map the mean negative cosine to the paper's scale: 2 - 2 cos."""
        return 2 + 2 * loss

    def after_step(self, progress: Progress) -> None:
        """Set the predictor, if it is one in closed form, then move the teacher."""
        super().after_step(progress)
        momentum = cosine_schedule(
            self.teacher_momentum, self.teacher_momentum_end, progress.fraction
        )
        ema_update(self.teacher, self.net, momentum, self.teacher_buffers)


PART = Byol
