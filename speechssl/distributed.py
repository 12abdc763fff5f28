"""One process or many (``torchrun``): ranks, devices, sums and gathers, BatchNorm over all
processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechssl.errors import UserError


def world_size() -> int:
    """Number of processes that train together (1 without ``torch.distributed``)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def processes_here() -> int:
    """Number of processes that ``torchrun`` started on this machine (1 without it)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


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
    """(V, B, D) of every process joined along B, in the order of ranks; gradient flows to all of
    them.
    """
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


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True in the process that logs and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


def start(device: str = "auto") -> World:
    """Join the process group that ``torchrun`` announces, or stand alone.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: no such device here.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device: {device!r} is not a device; give cpu, cuda or cuda:0") from error
    if chosen.type == "cuda":
        if not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device: {device} is not here ({torch.cuda.device_count()} GPUs); give cpu"
            )
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
    return World(rank, size, chosen)


def stop() -> None:
    """Leave the process group, if any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Sum over processes whose gradient is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class CrossProcessBatchNorm(_BatchNorm):
    """BatchNorm of (N, C) whose statistics cover all processes, on any backend.

    ``nn.SyncBatchNorm`` only runs on GPUs; this one is for gloo and keeps the same parameters and
    buffers. Like it, it is no ``nn.BatchNorm1d``, for which encoders have a way of their own.
    Processes must hold equally many rows. Accepts (N, C) and channels-first (N, C, ...).
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the mean and (biased) variance over the rows of every process."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        dims = [0, *range(2, x.dim())]
        rows = x.numel() // x.shape[1] * dist.get_world_size()
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean = _Sum.apply(x.sum(dims)) / rows
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / rows
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * rows / max(1, rows - 1), momentum)  # type: ignore[union-attr]
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


def synchronise_batchnorm(module: nn.Module, world: World) -> nn.Module:
    """Replace every BatchNorm by one over all processes; the module itself with one process."""
    if world.size == 1:
        return module
    if world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, _converted(child))
        else:
            synchronise_batchnorm(child, world)
    return module


def _converted(norm: Any) -> CrossProcessBatchNorm:
    new = CrossProcessBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine)
    new.load_state_dict(norm.state_dict())
    for old, parameter in zip(norm.parameters(), new.parameters(), strict=True):
        parameter.requires_grad_(old.requires_grad)
    return new
