"""A federation that ends at any of its writes, and is run again, has the files of one that did not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_rounds import federate

from speechssl.weights import read_checkpoint

DINO = "method={name: dino, prototypes: 16, layers: 2, hidden: 16, bottleneck: 8}"
WORDS = (DINO, "federated.strategy=fedema", "federated.local_steps=1")


class Ended(BaseException):
    """What nothing in the package catches, as it cannot catch SIGKILL."""


class Writes:
    """Counts the files that take their place, and ends the process before or after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.last: tuple[int, bool] | None = None
        self.replace = os.replace
        monkeypatch.setattr(os, "replace", self)

    def __call__(self, source: Path, target: Path) -> None:
        if self.last == (len(self.names), False):
            raise Ended
        self.replace(source, target)
        self.names.append(Path(target).parent.name + "/" + Path(target).name)
        if self.last == (len(self.names) - 1, True):
            raise Ended


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


def contents(out: Path) -> dict[str, Any]:
    """Return what every file of a run says, but for the seconds that it took."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name == "last.pt":
            found[name] = list(values(read_checkpoint(path)))
        elif path.name == "log.jsonl":
            found[name] = list(values([json.loads(line) for line in path.open()]))
        else:
            found[name] = path.read_bytes()
    return found


def values(of: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all that a state holds, in its order."""
    if isinstance(of, dict):
        for key, value in of.items():
            if key != "seconds":
                yield from values(value, f"{path}/{key}")
    elif isinstance(of, list | tuple):
        for number, value in enumerate(of):
            yield from values(value, f"{path}/{number}")
    elif isinstance(of, torch.Tensor):
        yield path, (of.dtype, tuple(of.shape), of.numpy().tobytes())
    else:
        yield path, of


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def broken_at(
    writes: Writes, configuration: Path, out: Path, number: int, after: bool
) -> dict[str, Any]:
    """End a federation at a write, run it again, and return its files."""
    writes.names.clear()
    writes.last = (number, after)
    with pytest.raises(Ended):
        federate(configuration, out, *WORDS)
    writes.last = None
    federate(configuration, out, *WORDS, resume=True)
    return contents(out)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", ["low/about.yaml", "high/last.pt", "run/server.pt"])
def test_a_federation_that_ends_at_a_write_goes_on_to_the_same_files(
    configuration: Path, tmp_path: Path, writes: Writes, name: str, after: bool
) -> None:
    federate(configuration, tmp_path / "whole" / "run", *WORDS)
    whole = contents(tmp_path / "whole" / "run")
    number = len(writes.names) - 1 - writes.names[::-1].index(name)
    found = broken_at(writes, configuration, tmp_path / "broken" / "run", number, after)
    assert differences(whole, found) == []


@pytest.mark.slow
def test_a_federation_goes_on_from_every_write(
    configuration: Path, tmp_path: Path, writes: Writes
) -> None:
    federate(configuration, tmp_path / "whole" / "run", *WORDS)
    whole = contents(tmp_path / "whole" / "run")
    names = list(writes.names)
    assert len(names) > 20
    wrong = {}
    for number, name in enumerate(names):
        for after in (False, True):
            out = tmp_path / f"{number}-{after}" / "run"
            found = broken_at(writes, configuration, out, number, after)
            if changed := differences(whole, found):
                wrong[number, name, after] = changed
    assert wrong == {}
