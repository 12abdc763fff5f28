"""A busy machine: training beside low-priority work, and what is left of the quiet speed.

    python -m egs.bench.busy [--steps 6] [--load 1 2] [--width 128]

Each line is a process of its own: ``speechssl train`` on generated crops, first alone, then beside
so many busy loops at the lowest priority (``nice -n 19``), with threads that wait as the command
chooses at its start (the default), that sleep at once, and that spin (``OMP_WAIT_POLICY=active``, as
OpenMP has it). A loop is a session of its own, as another user's process is: between sessions, Linux
shares the cores evenly whatever the priorities are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from speechssl.threads import WAITING, usable_cores

STEP = """
import sys
from speechssl.threads import choose, choose_waiting
choose_waiting()
import time, torch
from speechssl import parts
torch.set_num_threads(choose())
steps, width = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
net = parts.build("encoders", {"name": "ecapa", "width": width}, 80).train()
x = torch.randn(64, 200, 80)
def step():
    net(x).square().sum().backward()
step()
started = time.perf_counter()
for _ in range(steps):
    step()
print(64 * steps / (time.perf_counter() - started))
"""


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Run so many endless loops at the lowest priority meanwhile."""
    command = ["nice", "-n", "19", sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def speed(steps: int, width: int, policy: str | None) -> float:
    """Return utterances a second of forward and backward passes in a fresh process."""
    environment = {key: value for key, value in os.environ.items() if key not in WAITING}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    done = subprocess.run(
        [sys.executable, "-c", STEP, str(steps), str(width)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    """Print one line for each policy and load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6, help="timed steps of 64 crops of 2 s")
    parser.add_argument("--width", type=int, default=128, help="channels of the ECAPA-TDNN")
    parser.add_argument("--load", type=int, nargs="+", default=[1, 2], help="busy loops beside it")
    args = parser.parse_args()
    print(f"{usable_cores()} usable cores; utterances a second, share of the quiet speed")
    for name, policy in (("as chosen", None), ("sleep", "passive"), ("spin", "active")):
        quiet = speed(args.steps, args.width, policy)
        print(f"  {name:<10} no load    {quiet:8.1f}")
        for loops in args.load:
            with busy(loops):
                now = speed(args.steps, args.width, policy)
            print(f"  {name:<10} {loops} loop{'s' * (loops > 1):<5} {now:8.1f}  {now / quiet:.2f}")


if __name__ == "__main__":
    main()
