"""Progress is shown by commands alone: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import io

import numpy as np
import pytest

from speechssl import progress
from speechssl.metrics import bootstrap_trials


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(show: bool | None = None) -> None:
    with progress.progress(4, "counting", "sheep", show=show) as done:
        for _ in range(4):
            done(1)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)


def test_from_python_nothing_is_shown_unless_asked_for(at_once, capsys) -> None:
    work()
    assert list(progress.counted("abc", 3, "reading", "files")) == ["a", "b", "c"]
    with progress.shown():
        work(show=False)
    assert capsys.readouterr().err == ""
    work(show=True)
    assert "counting" in capsys.readouterr().err


def test_on_a_terminal_it_is_a_bar_with_rate_and_time_left(at_once, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.shown():
        work()
    said = terminal.getvalue()
    assert "counting: 100%" in said and "4/4" in said and "sheep/s" in said


def test_elsewhere_it_is_a_line_now_and_then(at_once, capsys, monkeypatch) -> None:
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.shown():
        work()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[1] == "counting: 2 of 4 sheep, 0.1 sheep/s, 0.3 min left"


def test_what_is_quick_says_nothing(capsys, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.shown():
        work()
    assert "counting" not in terminal.getvalue()


def test_it_changes_no_result_and_ends_with_an_error(at_once, capsys) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200)
    target = scores + rng.normal(size=200) > 0
    sides = rng.integers(0, 8, (2, 200))
    silent = bootstrap_trials(scores, target, *sides, replicates=20)
    with progress.shown():
        assert bootstrap_trials(scores, target, *sides, replicates=20) == silent
    assert "bootstrap: 20 of 20 replicates" in capsys.readouterr().err
    with pytest.raises(ValueError, match="x"), progress.shown():
        for _ in progress.counted("abc", 3, "reading", "files"):
            raise ValueError("x")
    with progress.progress(1, "a", "b") as done:
        done(1)
