"""BYOL: predict a moving-average teacher's projection of another view (Grill et al. 2020, NeurIPS).

    L = mean over pairs u != v of 2 - 2 cos(h(z_v), t_u)  in 0..4          (methods/README.md 2.1)

t comes from the moving average of encoder and projector; h is any of ``predictors/``. Some programs
sum the two directions; ours is the mean. The teacher moves after the optimiser's step and its
embedding is what users get. Momentum rises from 0.996 to 1 by half a cosine (0.99 for short runs on
small data). ``gsg``: see ``_gsg.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechssl.interfaces import Progress, Views
from speechssl.methods.simsiam import SimSiam
from speechssl.nn.mlp import mlp
from speechssl.nn.moving_average import cosine_schedule, ema_update, teacher_of
from speechssl.nn.siamese import Projected, project, width


class Byol(SimSiam):
    """Student with predictor, and teacher.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's two layers.
        output_norm: BatchNorm (without weights) after the projector; not in the paper.
        predictor: one of ``predictors/``.
        gsg: guided stop-gradient with 4 or 2 long views, 0 = off.
        teacher_momentum, teacher_momentum_end: of the moving average, by half a cosine.
        teacher_buffers: BatchNorm statistics of the teacher (see ``ema_update``).
    """

    def __init__(
        self,
        encoder: nn.Module,
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
        self.net["projector"] = mlp([width(encoder), hidden, projection], output_norm=output_norm)
        self.teacher = teacher_of(self.net)
        self.momentum = (teacher_momentum, teacher_momentum_end)
        self.teacher_buffers: Literal["own", "copy", "ema"] = teacher_buffers

    @property
    def encoder(self) -> nn.Module:
        """The teacher's encoder."""
        return self.teacher["encoder"]

    def networks(self) -> dict[str, nn.Module]:
        """Return the encoders of the trained network and of its moving average."""
        return {"student": self.net["encoder"], "teacher": self.teacher["encoder"]}

    @torch.no_grad()
    def target(self, views: Sequence[Views], online: Projected) -> Projected:
        """The teacher's projections of the long views."""
        return project(self.teacher, views, long_only=True)

    def convention(self, loss: Tensor) -> Tensor:
        """2 - 2 cos."""
        return 2 + 2 * loss

    def after_step(self, progress: Progress) -> None:
        """Set the predictor, then move the teacher towards the student."""
        super().after_step(progress)
        ema_update(
            self.teacher,
            self.net,
            cosine_schedule(*self.momentum, progress.fraction),
            self.teacher_buffers,
        )


PART = Byol
