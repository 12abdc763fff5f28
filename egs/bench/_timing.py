"""What the benchmarks share: candidates timed in turns, medians, ratios, a table; peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from speechssl.nn.products import Kernel, linear, using_kernel


def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each, run in turns after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            begun = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(
    title: str, seconds: Mapping[str, float], amount: float, unit: str, base: str | None = None
) -> None:
    """A line a candidate: seconds, how much of ``unit`` a second, and times the rate of
    ``base``.
    """
    print(f"\n{title}")
    print(f"  {'':<44}{'seconds':>10}{unit + '/s':>16}{'ratio':>8}")
    for name, value in seconds.items():
        ratio = "" if base is None else f"{seconds[base] / value:.2f}"
        print(f"  {name:<44}{value:>10.3f}{amount / value:>16.4g}{ratio:>8}")


def product_rates(dtype: torch.dtype, size: int = 2048, device: str = "cpu") -> dict[str, float]:
    """FLOP/s of a matrix product of that type, by each kernel that can compute it.

    The fastest is the roof under which an encoder works.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply(kernel: Kernel) -> None:
        with torch.no_grad(), using_kernel(kernel):
            linear(a, b)

    candidates: dict[str, Callable[[], object]] = {"mkl": lambda: multiply("mkl")}
    if dtype != torch.float32 or device != "cpu":
        candidates = {"torch": lambda: multiply("mkl")}
    else:
        candidates["onednn"] = lambda: multiply("onednn")
    seconds = alternate(candidates, rounds=10)
    return {name: 2 * size**3 / value for name, value in seconds.items()}


def peak_kib(process: int | str = "self") -> int:
    """Return the peak memory of a process so far in KiB; 0 if it has ended, or the kernel does not tell.

    What `getrusage` and `wait4` tell counts the memory that the parent held at the start.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
