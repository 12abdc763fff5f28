"""Commands that are killed at random moments and run again end in the bits of an unbroken run.

    SPEECHSSL_KILLS=20 python -m pytest -m slow -s tests/hostile/test_kills.py

prints a line for each verb; 3 kills each where the variable is not set, from seed SPEECHSSL_SEED.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from killing_verbs import VERBS, begin, clear, digests, has_written, leftovers, make_world, unbroken
from starting import Fork, Process, end, load_everything, run

KILLS = int(os.environ.get("SPEECHSSL_KILLS", "3"))
SEED = int(os.environ.get("SPEECHSSL_SEED", "0"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load_everything()
    return make_world(tmp_path_factory.mktemp("kills"))


@pytest.mark.parametrize("name", VERBS)
def test_a_killed_command_is_run_again_and_ends_in_the_same_bits(world: Path, name: str) -> None:
    verb = VERBS[name]
    whole = unbroken(world, verb)
    moments = random.Random(f"{SEED} {name}")
    killed = 0
    different: list[str] = []
    children = 0
    begun = 0
    latest = whole.seconds  # it grows shorter where runs are faster than the first one
    for _ in range(10 * KILLS):
        after = moments.uniform(0.9 * min(whole.first, latest), latest)
        given = begin(world, verb)
        found = end(Fork(world, verb.words(world)), signal.SIGKILL, after)
        if found.code == -signal.SIGKILL:
            killed += 1
            begun += has_written(world, given)
            children += found.children
            again = Fork(world, [*verb.words(world), *verb.again])
            code = again.wait(600)
            # It may have been killed after its last file: `shard` refuses a folder that is complete.
            assert code == 0 or "already" in again.text(), again.text()
            bits = digests(world)
            changed = {key for key in whole.bits | bits if whole.bits.get(key) != bits.get(key)}
            if changed:
                different.append(f"after {after:.2f} s: {sorted(changed)}")
        else:
            latest *= 0.9
        if killed == KILLS:
            break
    clear(world)
    same = killed - len(different)
    print(
        f"\n{name:<24} {whole.seconds:5.1f} s  killed {killed:3} (while writing {begun:3})"
        f"  same bits and files {same:3}  children left {children}"
    )
    assert killed, "it ended too soon to be killed"
    assert not different
    assert children == 0


@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("name", VERBS)
def test_a_command_that_is_asked_to_end_cleans_up(
    world: Path, name: str, number: int, group: bool
) -> None:
    verb = VERBS[name]
    whole = unbroken(world, verb, Process)
    moments = random.Random(f"{SEED} {name} {number}")
    ended = 0
    for _ in range(max(1, KILLS // 3)):
        after = moments.uniform(0.7, whole.seconds)
        begin(world, verb)
        begin(world, verb)
        found = end(Process(world, verb.words(world)), number, after, group=group)
        if found.code != 0:
            ended += 1
            # After its last line of Python the signal itself ends it; a shell shows the same code.
            assert found.code in (128 + number, -number), found.text
            assert "Traceback" not in found.text, found.text
            assert found.children == 0
            assert leftovers(world) == []
            run(world, *verb.words(world), *verb.again)
            assert digests(world) == whole.bits
    clear(world)
    print(f"\n{name:<24} {signal.Signals(number).name} {ended}")
