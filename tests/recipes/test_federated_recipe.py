"""recipes/federated/run.sh, unmodified: from nothing to the table, and nothing twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders import ROOT, run_script

from speechssl.federated.settings import read_settings

FOLDER = ROOT / "recipes" / "federated"


def test_its_configuration_is_one() -> None:
    config, settings = read_settings(str(FOLDER / "conf" / "two_clients.yaml"))
    assert len(config.data.train) == 2 and settings.rounds > 1


def test_flowers_pins_are_its_own_and_the_extra_asks_for_that_flower() -> None:
    def pins(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
        return {re.sub(r"[-_.]", "-", a.lower()): b for a, b in (x.split("==") for x in lines)}

    own, all_others = pins(FOLDER / "constraints.txt"), pins(ROOT / "tests" / "constraints.txt")
    assert f'federated = ["flwr>={own["flwr"].rpartition(".")[0]}", ' in (
        ROOT / "pyproject.toml"
    ).read_text(encoding="utf-8")
    assert int(own["protobuf"].partition(".")[0]) < 7 <= int(all_others["protobuf"].split(".")[0])


@pytest.mark.slow
def test_the_tiny_form_goes_from_nothing_to_the_table_and_does_nothing_twice(
    tmp_path: Path,
) -> None:
    words = ["recipes/federated/run.sh", "--tiny", "--exp", tmp_path, "--device", "cpu"]
    done = run_script(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].strip("| ") for row in rows]
    assert names == ["model", "untrained", "alone-low", "alone-high", "fedavg", "together"]
    assert all(re.fullmatch(r"\| [\w-]+ \| \d+\.\d \|", row) for row in rows[1:])
    again = run_script(*words)
    assert [line for line in again.stdout.splitlines() if line.startswith("| ")] == rows
    assert "[stage" not in again.stderr
