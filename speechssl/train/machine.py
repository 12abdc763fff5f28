"""What is asked of the machine before the first step: threads, and the library of float32 products."""

from __future__ import annotations

import sys

import torch

from speechssl import distributed, threads
from speechssl.nn.products import select_kernel
from speechssl.train.settings import TrainSettings


def set_threads(requested: int | str, world: distributed.World, quiet: bool = False) -> None:
    """Set the number of threads to ``train.threads``; on a CPU, report it unless ``quiet``."""
    count = threads.choose(requested, distributed.processes_here())
    torch.set_num_threads(count)
    if world.first and world.device.type == "cpu" and not quiet:
        print(threads.describe(count), file=sys.stderr)


def set_kernel(train: TrainSettings, world: distributed.World, quiet: bool = False) -> None:
    """Select the library of float32 products; report it where it matters, unless ``quiet``."""
    assert train.float32_kernel != "auto"  # `with_precision` has chosen
    select_kernel(train.float32_kernel)
    on_cpu = world.first and world.device.type == "cpu"
    if on_cpu and train.precision == "float32" and not quiet:
        print(f"float32 products: {train.float32_kernel}", file=sys.stderr)
