"""A Ray cluster: the one at an address, or one of this machine for the time of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from speechssl.errors import UserError


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
    cpus = None
    if settings.address is None and settings.workers:
        # One more than they have: tasks that hand out chunks need a core, too, or all wait.
        cpus = max(os.cpu_count() or 1, settings.workers * settings.worker_cpus + 1)
    try:
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
