"""One process or many (`torchrun`): ranks, devices, gathers, sums and BatchNorm.

Everything here does the right thing with one process, without `torch.distributed`.
Tests compare two processes of half a batch each with one process of the whole
(tests/contracts).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechssl.errors import UserError

_TIMEOUT = timedelta(minutes=30)

Made = TypeVar("Made")


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True in the process that logs and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            dist.barrier()


def start(device: str = "auto") -> World:
    """Join the process group that `torchrun` announces, or stand alone.

    Args:
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: there is no such device.
    """
    chosen = _device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)
    return World(rank, size, chosen)


def _device(name: str) -> torch.device:
    """Return the device of this process; raise UserError if it is not there.

    ``auto`` never is Apple's GPU: it has no float64, in which some sums of training run.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: {name!r} is not a device; give cpu, cuda or cuda:0") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise UserError(f"device: {name} is not here ({count} GPUs); give cpu")
    return device


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def rank() -> int:
    """Return the number of this process among those that train together, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def processes_here() -> int:
    """Return the number of processes that `torchrun` started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def from_first_here(make: Callable[[], Made]) -> Made:
    """Return what the first process of this machine makes; all that train together must come here."""
    if world_size() == 1:
        return make()
    machines: list[str] = [""] * world_size()
    dist.all_gather_object(machines, _machine())
    first = machines.index(machines[rank()])
    everywhere: list[list[Made]] = [[]] * world_size()
    dist.all_gather_object(everywhere, [make()] if rank() == first else [])
    return everywhere[first][0]


def _machine() -> str:
    """Return what the processes of a machine have in common, and no other machine has."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname() + (boot.read_text() if boot.exists() else "")


def gather_with_gradient(x: Tensor) -> Tensor:
    """Join the tensors of all processes along the batch; gradient flows to all of them.

    Args:
        x: (V, B, ...), of the same shape in every process.

    Returns:
        (V, world size x B, ...), in the order of ranks.
    """
    if world_size() == 1:
        return x
    joined: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return joined


@torch.no_grad()
def gather_without_gradient(x: Tensor) -> Tensor:
    """Join the tensors of all processes along the batch, detached.

    Args:
        x: (V, B, ...), of the same shape in every process.

    Returns:
        (V, world size x B, ...), in the order of ranks.
    """
    x = x.detach()
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, dim=1)


class _Gather(torch.autograd.Function):
    """`gather_without_gradient`, with the gradient summed over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.batch = x.shape[1]
        return gather_without_gradient(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(1, rank() * ctx.batch, ctx.batch)


@torch.no_grad()
def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of `x` over processes, without gradient; `x` stays as it is."""
    x = x.detach()
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of `x` over processes, without gradient; `x` stays as it is."""
    return sum_over_ranks(x) / world_size()


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
    """BatchNorm whose statistics cover all processes, on any backend.

    `nn.SyncBatchNorm` only runs on GPUs; this one is for gloo. It has the parameters
    and buffers of `nn.BatchNorm1d`, but is not a subclass of it, so `nn.batch_norm`
    calls it as it is instead of normalising with the statistics of this process alone.
    Processes must hold equally many rows.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the mean and biased variance over the rows of all processes.

        Args:
            input: (N, C), or channels first (N, C, ...).
        """
        if not self.training:
            normalised: Tensor = super().forward(input)
            return normalised
        x = input.float()
        row_dims = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1] * dist.get_world_size()
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean = _summed(x.sum(row_dims)) / count
        centred = x - mean.view(shape)
        variance = _summed(centred.square().sum(row_dims)) / count
        self._update_running(mean, variance, count)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running mean and variance (unbiased) towards those of a batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = self.momentum or 0.0
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), momentum)


def _summed(x: Tensor) -> Tensor:
    """Return the sum of `x` over processes, with gradient."""
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def synchronise_batchnorm(module: nn.Module, world: World) -> nn.Module:
    """Replace every BatchNorm in `module` by one over all processes.

    Parameters and buffers keep their names and values. With one process nothing
    changes.

    Returns:
        The module; on a GPU a new one if `module` itself is a BatchNorm.
    """
    if world.size == 1:
        return module
    if world.device.type == "cuda":
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        converted: nn.Module = convert(module)  # type: ignore[no-untyped-call]
        return converted
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, _cross_process(child))
        else:
            synchronise_batchnorm(child, world)
    return module


def _cross_process(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> CrossProcessBatchNorm:
    """Return a `CrossProcessBatchNorm` with the settings and the state of `norm`."""
    new = CrossProcessBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine)
    new.load_state_dict(norm.state_dict())
    for old, parameter in zip(norm.parameters(), new.parameters(), strict=True):
        parameter.requires_grad_(old.requires_grad)
    return new
