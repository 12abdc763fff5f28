"""DINO: self-distillation with no labels, for utterances.

Caron et al. 2021 (ICCV), adapted to speech by Cho et al. 2022 (Interspeech). A student that sees
long and short chunks of an utterance predicts what its moving-average teacher says of the long
ones: with q_u = softmax((t_u - c) / tau_t) and l_v = log softmax(s_v / tau_s),

    L = mean over pairs u != v of  mean over the batch of  -sum_k q_u[k] l_v[k].

The centre c keeps one prototype from winning, the low tau_t keeps q from being flat (methods/README.md 1).
Defaults are the paper's for a large set, except ``prototypes`` (65,536 there). Options cover
recipes/README.md section 2: Sinkhorn in place of the centre (DINOv2, SDPN), KoLeo (DINOv2, SDPN), the
variance and covariance terms of RDINO, the mean-entropy term of SDPN, and the cosine term of
hyperion. We mask KoLeo's diagonal with minus infinity; the released -1 lets an antipodal sample be
its own neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.diagnostics.assignments import assignment_figures
from speechssl.distributed import mean_over_ranks, sum_over_ranks, world_size
from speechssl.errors import UserError
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.methods.vicreg import variance_covariance
from speechssl.nn.dino_head import DinoHead
from speechssl.nn.moving_average import cosine_schedule, ema_update, teacher_of
from speechssl.nn.views import encode, in_float32


def dino_loss(student: Tensor, teacher: Tensor, pairs: Tensor) -> Tensor:
    """Mean cross-entropy over the chosen pairs of views.

    Args:
        student: (V, B, K) log-probabilities.
        teacher: (U, B, K) probabilities, no gradient.
        pairs: (U, V) bool, the pairs that count (not the same view on both sides).
    """
    rows = torch.einsum("ubk,vbk->uv", teacher, student) / student.shape[1]
    return -(rows * pairs).sum() / pairs.sum()


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Sinkhorn-Knopp assignment over the batch of all processes: rows sum to 1, columns to N / K.

    Args:
        logits: (N, K) teacher logits.
        temperature: tau_t. Computed on logarithms, so no row or column can vanish.
    """
    x = logits / temperature
    for _ in range(iterations):
        top = x.max(0).values
        if world_size() > 1:
            torch.distributed.all_reduce(top, op=torch.distributed.ReduceOp.MAX)
        x = x - top - sum_over_ranks((x - top).exp().sum(0)).log()
        x = x - x.logsumexp(1, keepdim=True)
    return x.exp()


def koleo(embeddings: Tensor) -> Tensor:
    """Kozachenko-Leonenko term of DINOv2: -mean log distance to the nearest other sample.

    Args:
        embeddings: (B, D), L2-normalised here; distances in [0, 2].
    """
    x = F.normalize(embeddings.float(), dim=-1)
    with torch.no_grad():
        nearest = (x @ x.T).fill_diagonal_(-torch.inf).argmax(1)
    return -(F.pairwise_distance(x, x[nearest], eps=0.0) + 1e-8).log().mean()


class Dino(Method):
    """Student, teacher and centre.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        prototypes: K; about 4 to 10 times the classes expected, 65,536 for VoxCeleb2.
        layers, hidden, bottleneck, batchnorm, frozen_gain: see ``DinoHead``.
        student_temperature, teacher_temperature: tau_s and the final tau_t (ratio to cosine
            logits).
        teacher_temperature_start, teacher_temperature_warmup: tau_t rises linearly from the first
            over this share of the run (none: constant).
        teacher_momentum, teacher_momentum_end: of the moving average, by half a cosine.
        centring: ``centre`` (moving mean of teacher logits, ``centre_momentum``) or ``sinkhorn``.
        freeze_last_layer: epochs during which the prototypes do not move.
        teacher_buffers: BatchNorm statistics of the teacher (see ``ema_update``).
        koleo_weight: per global view, on the student's embedding (0.1 in DINOv2).
        regularised, variance_weight, covariance_weight, regulariser_start, regulariser_end,
        regulariser_warmup: RDINO's layer, its two weights (10 and 1), and the outer weight, which
            rises linearly (.05 to .2) over a share of the run; 0 switches it off.
        mean_entropy_weight: SDPN's term, minus the entropy of the mean student assignment.
        cosine_weight: hyperion's 1 - cos(student, teacher embedding) over the same pairs, rising
            linearly over ``cosine_warmup`` of the run.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        prototypes: int = 4096,
        layers: int = 3,
        hidden: int = 2048,
        bottleneck: int = 256,
        batchnorm: bool = False,
        frozen_gain: bool = True,
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
        freeze_last_layer: float = 1.0,
        koleo_weight: float = 0.0,
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
        temperatures = (student_temperature, teacher_temperature, teacher_temperature_start)
        momenta = (teacher_momentum, teacher_momentum_end, centre_momentum)
        if any(t is not None and t <= 0 for t in temperatures) or not all(
            0 <= momentum <= 1 for momentum in momenta
        ):
            raise UserError(
                "dino: temperatures must be above 0 and momenta within 0..1; change method.*"
            )
        dim = cast(int, encoder.embedding_dim)
        head = DinoHead(
            dim, prototypes, layers, hidden, bottleneck, batchnorm, regularised, frozen_gain
        )
        self.student = nn.ModuleDict({"encoder": encoder, "head": head})
        self.teacher = teacher_of(self.student)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(prototypes))
        self.teacher_prototypes = prototypes
        self.student_temperature = student_temperature
        self.temperature = (
            teacher_temperature_start,
            teacher_temperature,
            teacher_temperature_warmup,
        )
        self.momentum = (teacher_momentum, teacher_momentum_end)
        self.teacher_buffers: Literal["own", "copy", "ema"] = teacher_buffers
        self.centring, self.centre_momentum = centring, centre_momentum
        self.sinkhorn_iterations = sinkhorn_iterations
        self.freeze_last_layer = freeze_last_layer
        self.koleo_weight, self.mean_entropy_weight = koleo_weight, mean_entropy_weight
        self.variance_weight, self.covariance_weight = variance_weight, covariance_weight
        self.regulariser = (regulariser_start, regulariser_end, regulariser_warmup)
        self.cosine = (0.0, cosine_weight, cosine_warmup)

    @property
    def encoder(self) -> nn.Module:
        """The teacher's encoder."""
        return self.teacher["encoder"]

    def networks(self) -> dict[str, nn.Module]:
        """Return the encoders of the trained network and of its moving average."""
        student = self.student["encoder"]
        teacher = self.teacher["encoder"]
        return {"student": student, "teacher": teacher}

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss on one batch; the loss uses the centre as it was before this batch."""
        _check_plan(views)
        with torch.no_grad():
            teacher = _encode_all(self.teacher, views, "teacher")
        student = _encode_all(self.student, views, "student")
        with in_float32(student.logits):
            q = self._assign(teacher.logits, _ramp(self.temperature, progress.fraction))
            log_p = F.log_softmax(student.logits / self.student_temperature, dim=-1)
            pairs = torch.tensor(
                [[u != v for v in student.ids] for u in teacher.ids], device=q.device
            )
            loss = dino_loss(log_p, q, pairs)
            scalars = assignment_figures(q, loss.detach(), pairs)
            loss, extra = self._regularise(loss, progress, student, teacher, log_p, pairs)
        return Output(loss, scalars | extra, teacher.embeddings.flatten(0, 1), student.embeddings)

    @torch.no_grad()
    def _assign(self, logits: Tensor, temperature: float) -> Tensor:
        if self.centring == "sinkhorn":
            return sinkhorn(logits.flatten(0, 1), temperature, self.sinkhorn_iterations).view_as(
                logits
            )
        q = F.softmax((logits - self.centre) / temperature, dim=-1)
        if self.training:
            mean = mean_over_ranks(logits.mean((0, 1)))
            self.centre.lerp_(mean, 1 - self.centre_momentum)
        return q

    def _regularise(
        self,
        loss: Tensor,
        progress: Progress,
        student: _Seen,
        teacher: _Seen,
        log_p: Tensor,
        pairs: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the optional terms; what each came to, for the log."""
        scalars = {"dino": loss.detach()}
        long = len(teacher.embeddings)
        if self.koleo_weight:
            term = torch.stack([koleo(view) for view in student.embeddings[:long]]).mean()
            loss, scalars["koleo"] = loss + self.koleo_weight * term, term.detach()
        if weight := _ramp(self.regulariser, progress.fraction):
            terms = [
                variance_covariance(x.float().mean(0))
                for x in (student.hidden[:long], teacher.hidden)
            ]
            hinge, covariance = (torch.stack(x).mean() for x in zip(*terms, strict=True))
            loss = loss + weight * (
                self.variance_weight * hinge + self.covariance_weight * covariance
            )
            scalars |= {"variance": hinge.detach(), "covariance": covariance.detach()}
        if self.mean_entropy_weight:
            mean = log_p.exp().mean((0, 1))
            entropy = -(mean * mean.clamp_min(1e-12).log()).sum()
            loss, scalars["mean_entropy"] = (
                loss - self.mean_entropy_weight * entropy,
                entropy.detach(),
            )
        if weight := _ramp(self.cosine, progress.fraction):
            s, t = (F.normalize(x.embeddings.float(), dim=-1) for x in (student, teacher))
            cosines = torch.einsum("ubd,vbd->uv", t, s) / s.shape[1]
            term = 1 - (cosines * pairs).sum() / pairs.sum()
            loss, scalars["cosine"] = loss + weight * term, term.detach()
        return loss, scalars

    def after_backward(self, progress: Progress) -> None:
        """During the first epochs the prototypes get no gradient at all, not even a zero one."""
        if progress.epoch < self.freeze_last_layer:
            self.student["head"].weight_v.grad = None  # type: ignore[index, union-attr]
            self.student["head"].weight_g.grad = None  # type: ignore[index, union-attr]

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        momentum = cosine_schedule(*self.momentum, progress.fraction)
        ema_update(self.teacher, self.student, momentum, self.teacher_buffers)


def _ramp(start_end_share: tuple[float | None, float, float], fraction: float) -> float:
    """Linear from start to end over the first share of the run, then constant."""
    start, end, share = start_end_share
    if start is None or share <= 0 or fraction >= share:
        return end
    return start + (end - start) * fraction / share


class _Seen(NamedTuple):
    """What a network makes of its views: (V, B, D), (V, B, K), RDINO's layer (V, B, R), who each
    view is.
    """

    embeddings: Tensor
    logits: Tensor
    hidden: Tensor
    ids: list[tuple[int, int]]


def _check_plan(views: Sequence[Views]) -> None:
    """Raise UserError unless some student's view has another teacher's view to predict."""
    teachers = next((group for group in views if group.to != "student"), None)
    students = [group for group in views if group.to != "teacher"]
    alone = (
        len(students) == 1
        and teachers is not None
        and teachers.to == "both"
        and len(teachers.features) < 2
    )
    if teachers is None or not students or alone:
        raise UserError(
            "dino: data.crops has no pair of views: the teacher needs a group (to: both or"
            " teacher), and the student another crop to compare with it; give {count: 2, seconds:"
            " 3.0} first"
        )


def _encode_all(net: nn.Module, views: Sequence[Views], role: str) -> _Seen:
    """Each length is encoded in one batch; the head runs once on all views together.

    A teacher sees only the first group that is addressed to it (the long chunks).
    """
    seen = [(i, g) for i, g in enumerate(views) if g.to in ("both", role)]
    seen = seen[:1] if role == "teacher" else seen
    embeddings = torch.cat([encode(net["encoder"], group) for _, group in seen])  # type: ignore[index]
    count, batch = embeddings.shape[:2]
    logits, hidden = net["head"](embeddings.flatten(0, 1))  # type: ignore[index]
    ids = [(i, v) for i, group in seen for v in range(len(group.features))]
    return _Seen(embeddings, logits.view(count, batch, -1), hidden.view(count, batch, -1), ids)


PART = Dino
