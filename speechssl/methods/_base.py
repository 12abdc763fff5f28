"""What every method shares: the contract with the training loop, views, the moving-average teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from speechssl.predictors._base import ParameterRule


class Views(NamedTuple):
    """One group of the crop plan: crops of one length.

    Attributes:
        features: (V, B, F, M), V crops of each of B utterances.
        to: which network sees them (``both``, ``student`` or ``teacher``).
        ids: (B,) int64, which utterance of the training set each one is.
    """

    features: Tensor
    to: str = "both"
    ids: Tensor | None = None


class Progress(NamedTuple):
    """Where training stands; everything scheduled is a function of it."""

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 at the first step and 1 after the last."""
        return self.step / max(1, self.steps)

    @property
    def epoch(self) -> float:
        """Epochs done, as a real number."""
        return self.step / max(1, self.steps_per_epoch)


class Output(NamedTuple):
    """What a step returns.

    Attributes:
        loss: scalar to differentiate.
        scalars: named detached scalars for the log; no method synchronises the device to make them.
        embedding: (N, D) detached embeddings, of the network that users get, for the collapse monitor.
        projections: (V, B, P) with gradient, what regularisers of any method work on (DimCL).
    """

    loss: Tensor
    scalars: dict[str, Tensor]
    embedding: Tensor
    projections: Tensor


class Method(nn.Module):
    """A self-supervised method around one encoder.

    A subclass implements ``forward(views, progress) -> Output`` and names the encoder whose embeddings
    users get in ``encoder``. Both hooks may stay empty.
    """

    min_batch = 2
    """Smallest number of utterances a device may hold for the loss to be defined."""

    teacher_prototypes: int | None = None
    """K, where ``teacher_entropy`` is logged: its limit is ln K."""

    PARTS: ClassVar[dict[str, str]] = {}
    """Settings that are parts themselves: keyword -> folder (``{"predictor": "predictors"}``)."""

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is saved and embeds: the teacher's where there is one."""
        raise NotImplementedError

    NEEDS_LABELS: ClassVar[bool] = False
    """Whether it learns pseudo-labels (``data.pseudo_labels``)."""

    OWN_STATE: ClassVar[tuple[str, ...]] = ()
    """Buffers that a run does not take over from another one (``train.init_method``)."""

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Called once, before training: room for memories, and classes.

        Args:
            utterances: N, the size of the training set.
            labels: (N,) int64 pseudo-labels 0 to C - 1, where ``data.pseudo_labels`` gives them.
        """

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """One step on a batch: (V, B, F, M) features a group, in the order of the crop plan."""
        raise NotImplementedError

    def parameter_rules(self) -> list[ParameterRule]:
        """Parameters that the optimiser treats in a way of their own; none unless a method says so."""
        return []

    def after_backward(self, progress: Progress) -> None:
        """Runs between backward (and clipping) and the optimiser's step."""

    def after_step(self, progress: Progress) -> None:
        """Runs after the optimiser's step: moving averages, predictors set in closed form."""


Network = TypeVar("Network", bound=nn.Module)


def teacher_of(student: Network) -> Network:
    """A copy that never receives gradient."""
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    return teacher


def cosine_schedule(start: float, end: float, fraction: float) -> float:
    """Half a cosine from ``start`` at fraction 0 to ``end`` at 1 (teacher momentum of BYOL and DINO)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, fraction))) / 2


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, momentum: float, buffers: Literal["own", "copy", "ema"] = "own"
) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, over the parameters in one fused pass.

    Args:
        buffers: what happens to floating-point buffers (BatchNorm statistics): the teacher keeps those
            of its own forward passes (``own``, as all released programs do), takes the student's
            (``copy``), or averages them as well (``ema``).
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


def in_float32(x: Tensor) -> torch.autocast:
    """A context without autocast, for losses, centring, Sinkhorn, covariances and decompositions."""
    return torch.autocast(x.device.type, enabled=False)


def encode(encoder: nn.Module, views: Views) -> Tensor:
    """Embeddings (V, B, D) of one group, encoded in one batch of its one length."""
    count, batch = views.features.shape[:2]
    return encoder(views.features.flatten(0, 1)).view(count, batch, -1)


def world_size() -> int:
    """Number of processes that train together (1 without ``torch.distributed``)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them (0 without ``torch.distributed``)."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    """Join (V, B, ...) of all processes along B; gradients are summed over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.batch = x.shape[1]
        return gather_without_gradient(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(1, rank() * ctx.batch, ctx.batch)


def gather_with_gradient(x: Tensor) -> Tensor:
    """(V, B, D) of every process joined along B, in the order of ranks; gradient flows to all of them."""
    joined: Tensor = x if world_size() == 1 else _Gather.apply(x)
    return joined


@torch.no_grad()
def gather_without_gradient(x: Tensor) -> Tensor:
    """(V, B, ...) of every process joined along B, in the order of ranks, detached."""
    x = x.detach()
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, dim=1)


def sum_over_ranks(x: Tensor) -> Tensor:
    """``x`` summed over processes, without gradient; itself where there is one process."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def mean_over_ranks(x: Tensor) -> Tensor:
    """``x`` averaged over processes, without gradient; itself where there is one process."""
    return sum_over_ranks(x) / world_size() if world_size() > 1 else x
