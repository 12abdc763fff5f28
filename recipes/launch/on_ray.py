"""Run a command of speechssl by several processes on a Ray cluster, and wait for its end.

    python recipes/launch/on_ray.py --processes 8 [--gpus 1] [--cpus 4] -- speechssl train ... --resume

Every process is a task of Ray with its GPUs and cores, and one rank of the command. The folders must be
at the same paths on every node. A rank or a node that is lost ends the others, and all ranks start again
on what is left of the cluster, at most --max-restarts times: the command must go on from what it finds
(--resume). Asked to end (SIGTERM), it asks every rank, waits until they have saved, and exits with 143.
Otherwise it exits with the code of the first rank that failed, and with 2 for a mistake of the user.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from speechssl.embed.ray_cluster import refuse_silence, same_signal_handlers
from speechssl.errors import UserError

SECONDS_TO_SAVE = 120
"""How long a rank that is asked to end may take."""

NOT_AGAIN = (2, 143)
"""Exit codes after which nothing is started again: a user's mistake, and being asked to end."""

SECONDS_BEFORE_SAYING = 10
"""How long it waits for room on the cluster before it says so."""

_asked_to_end: list[int] = []


def free_address() -> tuple[str, int]:
    """Return this node's address and a free port of it."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def run_rank(command: list[str], variables: dict[str, str], stop: Any) -> int:
    """Run one rank to its end, or until the others have failed; return its exit code."""
    import ray

    process = subprocess.Popen(
        command, env={**os.environ, **variables}, preexec_fn=end_with_parent()
    )
    while process.poll() is None:
        if ray.get(stop.is_set.remote()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        time.sleep(0.5)
    return process.returncode


def end_with_parent() -> Any:
    """Return what lets Linux send SIGTERM to a new process when this one has ended: none trains unseen."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    set_signal_of_parents_death = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    return lambda: library.prctl(set_signal_of_parents_death, signal.SIGTERM)


class Stop:
    """Whether the ranks are to end; an actor that all of them ask."""

    def __init__(self) -> None:
        self.asked = False

    def set(self) -> None:
        """Ask all ranks to end."""
        self.asked = True

    def is_set(self) -> bool:
        """Return whether they were asked."""
        return self.asked


def run_once(command: list[str], args: argparse.Namespace) -> int:
    """Run all ranks; return 0, or the code of the first that failed (-1: its node was lost)."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    resources = {"num_cpus": args.cpus, "num_gpus": args.gpus, "max_retries": 0}
    stop = ray.remote(Stop).options(num_cpus=0).remote()
    bundle = {"CPU": args.cpus}
    if args.gpus:
        bundle["GPU"] = args.gpus
    group = placement_group([bundle] * args.processes)
    if not wait_for_room(group, bundle, args.processes):
        return 143

    def options(rank: int) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        return {**resources, "scheduling_strategy": strategy}

    address, port = ray.get(ray.remote(free_address).options(**options(0)).remote())
    ranks = []
    for rank in range(args.processes):
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(args.processes),
            "LOCAL_RANK": "0",  # Ray shows a task its own GPUs only
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }
        remote = ray.remote(run_rank).options(**options(rank))
        ranks.append(remote.remote(command, variables, stop))
    code = 0
    waiting = list(ranks)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=1.0)
        if _asked_to_end and not code:
            code = 143
            stop.set.remote()
        if not done:
            continue
        try:
            ended = ray.get(done[0])
        except ray.exceptions.RayError:
            ended = -1
        if ended and not code:
            code = ended
            stop.set.remote()
    remove_placement_group(group)
    return code


def wait_for_room(group: Any, bundle: dict[str, float], processes: int) -> bool:
    """Wait until the cluster has room for all ranks; return whether nobody asked to end before."""
    import ray

    waited = 0
    while not group.wait(timeout_seconds=1):
        waited += 1
        if _asked_to_end:
            return False
        if waited == SECONDS_BEFORE_SAYING:
            has = ray.cluster_resources()
            print(
                f"on_ray.py: waits until the cluster has room for {processes} ranks of {described(bundle)}"
                f" each; all of it is {described(has)}",
                file=sys.stderr,
                flush=True,
            )
    return True


def described(resources: dict[str, float]) -> str:
    """Return the cores and GPUs of a bundle or a cluster in words."""
    return f"{resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs"


def start_ray(args: argparse.Namespace) -> None:
    """Connect to the cluster, or start one on this machine.

    Raises:
        UserError: nobody answers, or this machine has too few GPUs.
    """
    import ray

    cores = None if args.address else max(os.cpu_count() or 1, int(args.processes * args.cpus))
    if args.address:
        refuse_silence(args.address)
    try:
        with same_signal_handlers():
            dashboard = None if args.address else False
            ray.init(args.address, num_cpus=cores, include_dashboard=dashboard)
    except ConnectionError as error:
        raise UserError(f"--address {args.address}: no Ray cluster there ({error})") from None
    gpus = ray.cluster_resources().get("GPU", 0)
    if not args.address and gpus < args.processes * args.gpus:
        raise UserError(
            f"--processes {args.processes} of {args.gpus:g} GPUs each, and this machine has {gpus:g};"
            " give fewer, or the --address of a cluster"
        )


def main() -> int:
    """Run the command, again after a loss; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--address", help="of the cluster (default: the one of this machine)")
    parser.add_argument("--processes", type=int, required=True, help="ranks in all")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a rank (default: 0)")
    parser.add_argument("--cpus", type=float, default=1, help="cores of a rank (default: 1)")
    parser.add_argument("--max-restarts", type=int, default=3, help="after a loss (default: 3)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command after --")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        start_ray(args)
    except UserError as error:
        print(f"on_ray.py: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: _asked_to_end.append(number))
    code = 1
    for attempt in range(args.max_restarts + 1):
        code = run_once(command, args)
        if code == 0 or code in NOT_AGAIN:
            break
        print(f"on_ray.py: a rank ended with {code}; restart {attempt + 1}", file=sys.stderr)
    ray.shutdown()
    return code if code >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
