"""Every tracker keeps the contract of `interfaces.Tracker`, and so does the README's example."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import readme_part

from speechssl import config, parts
from speechssl.interfaces import TrackedRun, Tracker

NAMES = [*parts.names("trackers"), readme_part("trackers")]
LOCAL = {"mode": "offline"}
"""Settings with which nobody is asked; a tracker is built with those of them that it has."""

HOSTILE = "<img src=x onerror=alert(1)>\t=1+1\n\u202eid" + "x" * 5000
SETTINGS = {"seed": 0, HOSTILE: HOSTILE, "train": {"steps": 4, "init": None, "list": [1, "a"]}}


def build(name: str, **settings: Any) -> Tracker:
    part = parts.find("trackers", name)
    known = config.schema(part)
    chosen = {key: value for key, value in {**LOCAL, **settings}.items() if key in known}
    for module in {"mlflow": ("mlflow", "alembic")}.get(name, (name,)):
        if name in parts.names("trackers"):
            pytest.importorskip(module)
    tracker = parts.build("trackers", {"name": name, **chosen})
    assert isinstance(tracker, Tracker)
    return tracker


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def use(tracker: Tracker, run: TrackedRun) -> str:
    """Call everything that a training calls."""
    identity = tracker.open(run)
    sound = np.zeros(800, np.float32)
    tracker.add_sounds(run.step, [sound, sound], [HOSTILE, "b"], 16000)
    for step in (run.step + 1, run.step + 2):
        tracker.add_figures(step, {"loss": 1.0 / step, "kl": float("nan"), "lr": float("inf")})
    tracker.add_alarm(run.step + 2, HOSTILE)
    tracker.add_embeddings(run.step + 2, np.eye(3, 4, dtype=np.float32), [HOSTILE, "b", ""])
    tracker.close(True)
    return identity


@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_hostile_names_is_tracked_and_continued_in_its_folder(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a run"
    folder.mkdir()
    before = dict(os.environ)
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    drawn = [torch.rand(1).item(), np.random.rand(), random.random()]
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    run = TrackedRun(folder, HOSTILE, SETTINGS, {"commit": None}, 0, None)
    identity = use(build(name), run)
    assert re.fullmatch(r"[\w.\-]{1,200}", identity, re.ASCII)
    again = use(build(name), run._replace(step=2, id=identity))
    assert again == identity
    # A training with a tracker draws the numbers that it draws without.
    assert [torch.rand(1).item(), np.random.rand(), random.random()] == drawn
    assert [path.name for path in tmp_path.iterdir()] == ["a run"]  # nothing beside it
    assert any(folder.rglob("*"))
    for key in before.keys() - {"WANDB_SERVICE"}:
        assert os.environ.get(key) == before[key]


@pytest.mark.parametrize("name", NAMES)
def test_building_one_opens_nothing(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = build(name)
    assert list(tmp_path.iterdir()) == []
    assert min(tracker.sounds, tracker.embeddings, tracker.embeddings_every) >= 0


@pytest.mark.parametrize("name", parts.names("trackers"))
def test_without_its_library_the_extra_is_named(name: str, monkeypatch: Any) -> None:
    from speechssl.errors import UserError

    module = parts.find("trackers", name).__module__
    monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'speechssl\[\w+\]'") as error:
        parts.build("trackers", name)
    assert "\n" not in str(error.value)
