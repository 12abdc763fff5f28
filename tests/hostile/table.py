"""Run every battery of this folder and print the table: attack, tried, held.

    python -m tests.hostile.table            every battery, the slow ones too (hours on two cores)
    python -m tests.hostile.table --quick    the cases that the default tests try (minutes)
    python -m tests.hostile.table -k audio   other words go to pytest

A case is counted where a test records it (`hostile_runs.Cases`), with an example of hypothesis, and
otherwise with each test. What every recorded command is watched for is said in `hostile_runs.py` and
`hostile_child.py`: tracebacks, code and programs, requests, writes outside its output (by an audit
hook, and by comparing the tree of files before and after), memory, time, and what a terminal obeys.
The exit code is 1 if anything did not hold.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
EXAMPLES = re.compile(r"(\d+) passing")


class Table:
    """A pytest plugin that counts what was tried, and what held.

    Attributes:
        tried: (battery, attack) -> cases.
        held: the same -> those that held.
        skipped: tests that were skipped, with the reason.
    """

    def __init__(self) -> None:
        self.tried: Counter[tuple[str, str]] = Counter()
        self.held: Counter[tuple[str, str]] = Counter()
        self.skipped: list[str] = []
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Any:
        """Let the report take the number of hypothesis's examples with it."""
        report = yield
        if report.when == "teardown":
            statistics = getattr(item, "hypothesis_statistics", None)
            if statistics is not None:
                counts = [int(number) for number in EXAMPLES.findall(statistics)]
                report.user_properties.append(("examples", max(1, sum(counts))))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test when it is over, or when it fails."""
        file, _, name = report.nodeid.partition("::")
        battery = Path(file).stem.removeprefix("test_").replace("_", " ")
        name = name.partition("[")[0].removeprefix("test_").replace("_", " ")
        properties = dict_of_lists(report.user_properties)
        if report.skipped:
            self.skipped.append(f"{battery}: {name}")
        elif report.when == "call" and report.failed and "counts cases" in properties:
            self._failed.add(report.nodeid)
        elif report.when == "teardown" and "counts cases" in properties:
            rows = properties.get("cases", [])
            for attack, tried, held in rows:
                self.add(battery, attack, tried, held)
            all_held = all(tried == held for _, tried, held in rows)
            if report.failed or (report.nodeid in self._failed and all_held):
                self.add(battery, name, 1, 0)  # it failed for another reason
        elif report.when == "teardown" and "examples" in properties:
            self.add(battery, name, properties["examples"][0], properties["examples"][0])
        elif report.failed:
            self.add(battery, name, 1, 0)
        elif report.when == "call" and not counted_later(report):
            self.add(battery, name, 1, 1)

    def add(self, battery: str, attack: str, tried: int, held: int) -> None:
        self.tried[battery, attack] += tried
        self.held[battery, attack] += held

    def lines(self) -> Iterable[str]:
        """Yield the table in Markdown, a line for each battery and for each attack of it."""
        yield "| battery | attack | tried | held |"
        yield "|---|---|---|---|"
        batteries = sorted({battery for battery, _ in self.tried})
        for battery in batteries:
            own = [key for key in self.tried if key[0] == battery]
            tried = sum(self.tried[key] for key in own)
            held = sum(self.held[key] for key in own)
            yield f"| **{battery}** | | **{tried}** | **{held}** |"
            for key in own:
                yield f"| | {key[1]} | {self.tried[key]} | {self.held[key]} |"
        yield f"| **all** | | **{self.tried.total()}** | **{self.held.total()}** |"


def counted_later(report: pytest.TestReport) -> bool:
    """Return True for a test whose cases, or examples, are counted when it is over."""
    names = [name for name, _ in report.user_properties]
    return "counts cases" in names or "hypothesis" in report.keywords


def dict_of_lists(properties: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, value in properties:
        found.setdefault(name, []).append(value)
    return found


def main(words: Sequence[str]) -> int:
    """Run the batteries and print their table."""
    arguments = [word for word in words if word != "--quick"]
    if "--quick" not in words:
        arguments += ["-m", "slow or not slow"]
    table = Table()
    code = pytest.main([str(FOLDER), "-q", *arguments], plugins=[table])
    print("\n".join(table.lines()))
    for name in sorted(set(table.skipped)):
        print(f"skipped: {name}")
    return 1 if code or table.tried.total() != table.held.total() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
