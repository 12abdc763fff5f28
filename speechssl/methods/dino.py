"""DINO: self-distillation with no labels, for utterances.

Caron et al. 2021 (ICCV), adapted to speech by Cho et al. 2022 (Interspeech). A student
that sees long and short chunks of an utterance predicts the assignments that its
moving-average teacher gives to the long ones: with q_u = softmax((t_u - c) / tau_t) and
l_v = log softmax(s_v / tau_s),

    L = mean over pairs u != v of  mean over the batch of  -sum_k q_u[k] l_v[k].

The centre c keeps one prototype from winning, the low tau_t keeps q from being flat
(methods/README.md 1). Defaults are the paper's for a large set, except ``prototypes``
(65,536 there). The optional terms are those of recipes/README.md section 2: Sinkhorn in
place of the centre (DINOv2, SDPN), KoLeo (DINOv2, SDPN), variance and covariance
(RDINO), mean entropy (SDPN), and the cosine of embeddings (hyperion).

The pair of one view with itself (u = v) never counts. hyperion's program keeps it where
the teacher has a single chunk, so its loss is another one there. The teacher's
temperature rises by the step; the programs raise it once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.diagnostics.assignments import assignment_figures
from speechssl.distributed import (
    gather_with_gradient,
    gather_without_gradient,
    mean_over_ranks,
)
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, Output, ParameterRule, Progress, Views
from speechssl.losses.distillation import (
    cosine_distance,
    dino_loss,
    koleo_of_views,
    mean_entropy,
    sinkhorn,
)
from speechssl.methods.vicreg import variance_covariance
from speechssl.nn.dino_head import DinoHead, DinoNetwork
from speechssl.nn.frames import accumulation_dtype
from speechssl.nn.moving_average import ema_update, teacher_of
from speechssl.nn.precision import in_float32
from speechssl.nn.schedules import LinearRamp, cosine_schedule
from speechssl.nn.student_teacher import Seen, check_pairs, other_pairs, run_views


class Dino(Method):
    """Student, teacher and centre.

    Args:
        encoder: the student's; the teacher is a copy of it.
        prototypes: K; about 4 to 10 times the classes expected, 65,536 for VoxCeleb2.
        layers: linear layers of the head before the prototypes; 0: the embedding itself
            is the bottleneck.
        hidden: size of the head's layers between.
        bottleneck: size of the head's bottleneck, which the prototypes are compared with.
        batchnorm: BatchNorm after the head's hidden layers, which then have no bias.
        input_batchnorm: BatchNorm on the embedding, before the head's first layer.
        head_batches: what the head's BatchNorms take their statistics of: all crops
            ``joint``, as in Caron et al.'s program and wespeaker, or the crops of one
            group of the crop plan after the other (``by_length``), as where the head is
            run with the encoder (RDINO, and hyperion's BatchNorm on the embedding).
        norm_last_layer: keep the prototypes at unit length, so that logits are cosines.
        student_temperature: tau_s, which divides the student's logits.
        teacher_temperature: tau_t once it has risen.
        teacher_temperature_start, teacher_temperature_warmup: tau_t at the start (none:
            tau_t is constant), and the share of the run over which it rises linearly.
        teacher_momentum, teacher_momentum_end: momentum of the moving average at the
            start and at the end; half a cosine in between.
        teacher_buffers: BatchNorm statistics of the teacher: those of its ``own`` forward
            passes, a ``copy`` of the student's, or their moving average (``ema``).
        centring: what keeps the teacher from one answer for all: subtracting the
            ``centre`` (moving mean of its logits), or ``sinkhorn``.
        centre_momentum: weight of the old centre in the moving mean.
        sinkhorn_iterations: 3 in DINOv2 and SDPN.
        sinkhorn_on: what Sinkhorn starts from: exp(``logits`` / tau_t), as in DINOv2, or
            the ``probabilities`` softmax(logits / tau_t), as in SDPN.
        target_prototypes: whose prototypes the teacher's output is compared with: the
            ``teacher``'s moving average of them, or the ``student``'s of this step
            (SDPN).
        freeze_last_layer: epochs during which the prototypes do not move.
        prototype_decay, prototype_clip: whether weight decay and gradient clipping
            apply to the prototypes (SDPN: neither).
        prototype_lr_scale: factor of their learning rate. SDPN sums their gradient over
            its GPUs, where everything else is averaged: with SGD, the number of GPUs.
        koleo_weight: of the sum over crops of the student's KoLeo (0.1 in DINOv2 and
            SDPN).
        koleo_over: the crops that it sums over: the ``long`` ones, which are those of
            the student's first group in the crop plan, or ``all`` of the student's.
        regularised: width of the layer that RDINO adds to the head (8,192), 0 for none.
        variance_weight, covariance_weight: of the mean of student's and teacher's
            variance terms, and of the sum of their covariance terms (10 and 1, in
            VICReg's form). RDINO's program divides its covariance by K in place of
            ``regularised``: its 1 is ``regularised`` / K here (0.125).
        regulariser_start, regulariser_end, regulariser_warmup: RDINO's outer weight,
            which rises linearly from start to end (.05 to .2) over the share `warmup`
            of the run; 0 for both switches it off.
        mean_entropy_weight: SDPN's term, minus the entropy of the mean student
            assignment, over all views and processes.
        cosine_weight: hyperion's 1 - cos(student, teacher embedding) over the same
            pairs.
        cosine_warmup: share of the run over which ``cosine_weight`` rises linearly from
            0.

    Raises:
        UserError: a temperature is not above 0, or a momentum not between 0 and 1.
    """

    RENAMED: ClassVar[dict[str, str]] = {"frozen_gain": "norm_last_layer"}

    centre: Tensor
    """(K,) moving mean of the teacher's logits."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        prototypes: int = 4096,
        layers: int = 3,
        hidden: int = 2048,
        bottleneck: int = 256,
        batchnorm: bool = False,
        input_batchnorm: bool = False,
        head_batches: Literal["joint", "by_length"] = "joint",
        norm_last_layer: bool = True,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_start: float | None = None,
        teacher_temperature_warmup: float = 0.0,
        teacher_momentum: float = 0.996,
        teacher_momentum_end: float = 1.0,
        teacher_buffers: Literal["own", "copy", "ema"] = "own",
        centring: Literal["centre", "sinkhorn"] = "centre",
        centre_momentum: float = 0.9,
        sinkhorn_iterations: int = 3,
        sinkhorn_on: Literal["logits", "probabilities"] = "logits",
        target_prototypes: Literal["teacher", "student"] = "teacher",
        freeze_last_layer: float = 1.0,
        prototype_decay: bool = True,
        prototype_clip: bool = True,
        prototype_lr_scale: float = 1.0,
        koleo_weight: float = 0.0,
        koleo_over: Literal["long", "all"] = "long",
        regularised: int = 0,
        variance_weight: float = 10.0,
        covariance_weight: float = 1.0,
        regulariser_start: float = 0.0,
        regulariser_end: float = 0.0,
        regulariser_warmup: float = 0.15,
        mean_entropy_weight: float = 0.0,
        cosine_weight: float = 0.0,
        cosine_warmup: float = 0.3,
    ) -> None:
        super().__init__()
        _check_temperature("student_temperature", student_temperature)
        _check_temperature("teacher_temperature", teacher_temperature)
        if teacher_temperature_start is None:
            teacher_temperature_start = teacher_temperature
        _check_temperature("teacher_temperature_start", teacher_temperature_start)
        _check_momentum("teacher_momentum", teacher_momentum)
        _check_momentum("teacher_momentum_end", teacher_momentum_end)
        _check_momentum("centre_momentum", centre_momentum)
        head = DinoHead(
            encoder.embedding_dim,
            prototypes,
            layers,
            hidden,
            bottleneck,
            batchnorm,
            regularised,
            norm_last_layer,
            input_batchnorm,
        )
        self.student = DinoNetwork(encoder, head)
        self.teacher = teacher_of(self.student)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.teacher_prototypes = prototypes
        self.highest_teacher_temperature = max(teacher_temperature, teacher_temperature_start)
        self.head_by_length = head_batches == "by_length"
        self.student_temperature = student_temperature
        self.teacher_temperature = LinearRamp(
            teacher_temperature_start, teacher_temperature, teacher_temperature_warmup
        )
        self.teacher_momentum = teacher_momentum
        self.teacher_momentum_end = teacher_momentum_end
        self.teacher_buffers: Literal["own", "copy", "ema"] = teacher_buffers
        self.centring = centring
        self.centre_momentum = centre_momentum
        self.sinkhorn_iterations = sinkhorn_iterations
        self.sinkhorn_on = sinkhorn_on
        self.target_prototypes = target_prototypes
        self.freeze_last_layer = freeze_last_layer
        self.prototype_decay = prototype_decay
        self.prototype_clip = prototype_clip
        self.prototype_lr_scale = prototype_lr_scale
        self.koleo_weight = koleo_weight
        self.koleo_over = koleo_over
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.regulariser_weight = LinearRamp(regulariser_start, regulariser_end, regulariser_warmup)
        self.mean_entropy_weight = mean_entropy_weight
        self.cosine_weight = LinearRamp(0.0, cosine_weight, cosine_warmup)

    @property
    def encoder(self) -> Encoder:
        """The teacher's encoder."""
        return self.teacher.encoder

    def networks(self) -> dict[str, Encoder]:
        """Return the encoders of the trained network and of its moving average."""
        return {"student": self.student.encoder, "teacher": self.teacher.encoder}

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch, computed with the centre as it was before this batch."""
        check_pairs(views)
        with torch.no_grad():
            shared = self.target_prototypes == "student"
            prototypes = self.student.head.prototypes() if shared else None
            teacher = run_views(self.teacher, views, "teacher", prototypes)
        student = run_views(self.student, views, "student", head_by_length=self.head_by_length)
        with in_float32(student.logits):
            temperature = self.teacher_temperature.at(progress.fraction)
            targets = self._assign(teacher.logits, temperature)
            log_p = F.log_softmax(student.logits / self.student_temperature, dim=-1)
            pairs = other_pairs(teacher, student)
            loss = dino_loss(log_p, targets, pairs)
            scalars = assignment_figures(targets, loss.detach(), pairs)
            scalars["dino"] = loss.detach()
            for term in self._optional_terms(student, teacher, log_p, pairs, progress):
                loss = loss + term.weight * term.value
                scalars |= term.scalars
        return Output(loss, scalars, teacher.embeddings.flatten(0, 1), student.embeddings)

    @torch.no_grad()
    def _assign(self, logits: Tensor, temperature: float) -> Tensor:
        """Return the teacher's probabilities (U, B, K); while training, move the centre."""
        if self.centring == "sinkhorn":
            rows = logits.flatten(0, 1) / temperature
            if self.sinkhorn_on == "probabilities":
                rows = F.log_softmax(rows, dim=-1)
            return sinkhorn(rows, 1.0, self.sinkhorn_iterations).view_as(logits)
        probabilities = F.softmax((logits - self.centre) / temperature, dim=-1)
        if self.training:
            mean = mean_over_ranks(logits.mean((0, 1)))
            self.centre.lerp_(mean, 1 - self.centre_momentum)
        return probabilities

    def _optional_terms(
        self, student: Seen, teacher: Seen, log_p: Tensor, pairs: Tensor, progress: Progress
    ) -> list[_Term]:
        """Return the terms of DINOv2, RDINO, SDPN and hyperion whose weights are not 0."""
        terms = []
        long = student.first_group
        if self.koleo_weight:
            chosen = None if self.koleo_over == "all" else long
            value = koleo_of_views(student.embeddings[:chosen])
            terms.append(_Term(self.koleo_weight, value, {"koleo": value.detach()}))
        regulariser_weight = self.regulariser_weight.at(progress.fraction)
        if regulariser_weight:
            terms.append(self._regulariser(regulariser_weight, student.layer[:long], teacher.layer))
        if self.mean_entropy_weight:
            entropy = mean_entropy(log_p)
            scalars = {"mean_entropy": entropy.detach()}
            terms.append(_Term(-self.mean_entropy_weight, entropy, scalars))
        cosine_weight = self.cosine_weight.at(progress.fraction)
        if cosine_weight:
            value = cosine_distance(student.embeddings, teacher.embeddings, pairs)
            terms.append(_Term(cosine_weight, value, {"cosine": value.detach()}))
        return terms

    def _regulariser(self, weight: float, student: Tensor, teacher: Tensor) -> _Term:
        """Return RDINO's terms of a layer (V, B, R), averaged over views, of all processes."""
        dtype = accumulation_dtype(student.dtype)
        student_layer = gather_with_gradient(student.to(dtype).mean(0, keepdim=True))[0]
        teacher_layer = gather_without_gradient(teacher.to(dtype).mean(0, keepdim=True))[0]
        student_variance, student_covariance = variance_covariance(student_layer)
        teacher_variance, teacher_covariance = variance_covariance(teacher_layer)
        variance = (student_variance + teacher_variance) / 2
        covariance = student_covariance + teacher_covariance
        value = self.variance_weight * variance + self.covariance_weight * covariance
        scalars = {"variance": variance.detach(), "covariance": covariance.detach()}
        return _Term(weight, value, scalars)

    def parameter_rules(self) -> list[ParameterRule]:
        """Return the rule of the prototypes, where they are not treated like all else."""
        rule = ParameterRule(
            [self.student.head.weight_v],
            scale=self.prototype_lr_scale,
            decay=self.prototype_decay,
            clip=self.prototype_clip,
        )
        ordinary = ParameterRule(rule.parameters)
        return [] if rule == ordinary else [rule]

    def after_backward(self, progress: Progress) -> None:
        """Remove the prototypes' gradient during the first ``freeze_last_layer`` epochs.

        The gradient is None, not zero, so neither momentum nor weight decay moves them.
        """
        if progress.epoch < self.freeze_last_layer:
            self.student.head.weight_v.grad = None
            self.student.head.weight_g.grad = None

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        momentum = cosine_schedule(
            self.teacher_momentum, self.teacher_momentum_end, progress.fraction
        )
        ema_update(self.teacher, self.student, momentum, self.teacher_buffers)


class _Term(NamedTuple):
    """A term to be added to the loss ``weight`` times, and what the log says of it."""

    weight: float
    value: Tensor
    scalars: dict[str, Tensor]


def _check_temperature(name: str, value: float) -> None:
    if value <= 0:
        raise UserError(f"method dino: {name} must be above 0, not {value:g}")


def _check_momentum(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"method dino: {name} must be between 0 and 1, not {value:g}")


PART = Dino
