"""A Ray cluster: the one at an address, or one of this machine for the time of a run."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from speechssl.errors import UserError

_SECONDS_TO_ANSWER = 10.0
_HOST_AND_PORT = re.compile(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d{1,5})")


@dataclass(frozen=True)
class RaySettings:
    """Where Ray runs.

    Attributes:
        address: of a cluster, `auto` for the one that this machine belongs to; None: one is started
            on this machine, for this run.
        workers: actors; 0: one a GPU, or else as many as there are cores for, all but one.
        worker_cpus: cores of an actor.
    """

    address: str | None = None
    workers: int = 0
    worker_cpus: int = 1


@contextmanager
def cluster(settings: RaySettings) -> Iterator[tuple[int, int]]:
    """Connect to a cluster, or start one on this machine and stop it in the end.

    Yields:
        The number of workers, and the GPUs of each (0 or 1).

    Raises:
        UserError: Ray is not installed, there is no cluster, or it has too few cores.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'speechssl[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    if settings.address is not None:
        refuse_silence(settings.address)
    cpus = None
    if settings.address is None and settings.workers:
        # One more than they have: tasks that hand out chunks need a core, too, or all wait.
        cpus = max(os.cpu_count() or 1, settings.workers * settings.worker_cpus + 1)
    try:
        with same_signal_handlers():
            ray.init(
                settings.address,
                num_cpus=cpus,
                include_dashboard=False if settings.address is None else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"--address {settings.address}: no Ray cluster there ({detail})") from None
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield _share_out(settings, resources)
    finally:
        ray.shutdown()


def refuse_silence(address: str) -> None:
    """Raise UserError if nobody answers at `HOST:PORT`; Ray itself would try for minutes."""
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None:
        return  # `auto`, `local`: Ray knows at once
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=_SECONDS_TO_ANSWER):
            return
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--address {address}: nobody answers there ({reason}); give the address that"
            " `ray start --head` printed, or leave --address out"
        ) from None


@contextmanager
def same_signal_handlers() -> Iterator[None]:
    """Set the handlers of before again after the block.

    Ray's, of SIGTERM, would end this process by an abort with a trace of native calls.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None:
                before[number] = signal.getsignal(number)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # set by native code
                signal.signal(number, handler)


def _share_out(settings: RaySettings, resources: dict[str, float]) -> tuple[int, int]:
    """Return the number of workers, and the GPUs of each (0 or 1), of what a cluster has."""
    cpus = int(resources.get("CPU", 0))
    gpus = int(resources.get("GPU", 0))
    room = (cpus - 1) // settings.worker_cpus
    if room < max(1, settings.workers):
        raise UserError(
            f"--engine ray: {max(1, settings.workers)} workers of {settings.worker_cpus} cores and"
            f" one core for handing out work need more than the cluster's {cpus}"
        )
    if gpus:
        return min(settings.workers or gpus, gpus), 1
    return settings.workers or room, 0
