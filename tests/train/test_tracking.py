"""Trackers cannot stop a training, and a resumed run is tracked once."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.interfaces import TrackedRun, Tracker
from speechssl.train.loop import train
from speechssl.train.tracking import Tracking, build_trackers, check_trackers
from speechssl.weights import read_checkpoint


class Recorder(Tracker):
    """Keeps what it gets, in a list for each folder.

    Args:
        fails: name of the method that raises.
        sounds: crops that it wants.
        embeddings: utterances that it wants.
    """

    kept: ClassVar[dict[str, list[Any]]] = {}

    def __init__(self, *, fails: str = "", sounds: int = 0, embeddings: int = 0) -> None:
        self.fails = fails
        self.sounds = sounds
        self.embeddings = embeddings

    def _keep(self, what: str, *values: Any) -> None:
        if what == self.fails:
            raise OSError(28, "No space left on device\nsecond line")
        self.calls.append((what, *values))

    def open(self, run: TrackedRun) -> str:
        self.calls = self.kept.setdefault(str(run.folder), [])
        self._keep("open", run.step, run.id)
        return run.id or f"id-{len(self.calls)}"

    def add_figures(self, step: int, figures: Any) -> None:
        self._keep("figures", step, figures["loss"])

    def add_alarm(self, step: int, text: str) -> None:
        self._keep("alarm", step, text)

    def add_sounds(self, step: int, sounds: Any, names: Any, rate: int) -> None:
        self._keep("sounds", step, sounds, names, rate)

    def add_embeddings(self, step: int, embeddings: Any, names: Any) -> None:
        self._keep("embeddings", step, embeddings, names)

    def close(self, finished: bool) -> None:
        self._keep("close", finished)


class Rewinding(Recorder):
    REWINDS: ClassVar[bool] = True


class Hanging(Recorder):
    """A network that never answers."""

    def add_figures(self, step: int, figures: Any) -> None:
        threading.Event().wait(20)


@pytest.fixture
def kept(tmp_path: Path) -> list[Any]:
    Recorder.kept.clear()
    return Recorder.kept.setdefault(str(tmp_path), [])


def track(folder: Path, tracker: Tracker, first: int, last: int, *, resumed: bool) -> None:
    run = TrackedRun(folder, "run", {}, {}, first - 1, None)
    tracking = Tracking({"one": tracker}, RunFolder(folder), run, resumed=resumed)
    for step in range(first, last + 1):
        tracking.add(step, {"loss": float(step)}, ["alarm"] if step == 2 else [])
        with RunFolder(folder).log.open("a") as log:
            log.write(json.dumps({"step": step, "loss": float(step)}) + "\n")
    tracking.close(finished=True, seconds=5)


def steps(kept: list[Any]) -> list[int]:
    return [call[1] for call in kept if call[0] == "figures"]


def test_steps_that_were_seen_are_not_given_again_unless_it_rewinds(tmp_path, kept) -> None:
    track(tmp_path, Recorder(), 1, 6, resumed=False)
    track(tmp_path, Recorder(), 5, 8, resumed=True)
    assert steps(kept) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [call for call in kept if call[0] == "open"] == [("open", 0, None), ("open", 4, "id-1")]
    assert [call for call in kept if call[0] == "alarm"] == [("alarm", 2, "alarm")]
    kept.clear()
    track(tmp_path, Rewinding(), 5, 8, resumed=True)
    assert steps(kept) == [5, 6, 7, 8]


def test_what_a_kill_kept_from_a_tracker_comes_from_the_log(tmp_path, kept) -> None:
    lines = [
        {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0, "alarms": ["x"]}, {"step": 3, "loss": 3},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    RunFolder(tmp_path).log.write_text(
        text + 'no JSON\n[]\n{"step": "4"}\n{"step": 9, "loss": 9}\n'
    )
    RunFolder(tmp_path).trackers.write_text('{"one": {"id": "abc", "step": 1}, "two": [1]}')
    track(tmp_path, Recorder(), 4, 5, resumed=True)
    assert kept[0] == ("open", 3, "abc") and steps(kept) == [2, 3, 4, 5]
    assert ("alarm", 2, "x") in kept
    kept.clear()
    RunFolder(tmp_path).trackers.unlink()  # a tracker that is new gets all
    track(tmp_path, Recorder(), 4, 5, resumed=True)
    assert kept[0] == ("open", 3, None) and steps(kept) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("content", ["", "[]", '{"one": {"id": "../x", "step": 1}}', '{"one": 3}'])
def test_a_damaged_record_of_what_is_tracked_begins_a_new_run(tmp_path, kept, content) -> None:
    RunFolder(tmp_path).trackers.write_text(content)
    track(tmp_path, Recorder(), 1, 1, resumed=True)
    assert kept[0] == ("open", 0, None)


@pytest.mark.parametrize("fails", ["open", "figures", "alarm", "close"])
def test_a_tracker_that_fails_is_one_warning(tmp_path, kept, capsys, fails) -> None:
    track(tmp_path, Recorder(fails=fails), 1, 4, resumed=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("speechssl: warning: tracker one: OSError: [Errno 28] No space left")
    assert "second line; the training goes on without it" in line


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path, kept, capsys) -> None:
    run = TrackedRun(tmp_path, "run", {}, {}, 0, None)
    tracking = Tracking({"one": Hanging()}, RunFolder(tmp_path), run)
    for step in range(2000):
        tracking.add(step, {"loss": 1.0})
    tracking.close(finished=True, seconds=0.1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "1000 calls behind" in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (3, "must be auto or a list"),
        (["tensorbord"], r"no 'tensorbord' \(did you mean 'tensorboard'\?\)"),
        ([{"name": "wandb", "projekt": "x"}], r"train.trackers\[0\].projekt \(did you mean"),
        (["tensorboard", {"name": "tensorboard", "sounds": 1}], "names tensorboard twice"),
        ([{"sounds": 1}], r"train.trackers\[0\].name is missing"),
    ],
)
def test_a_mistake_in_the_setting_is_one_line(setting, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_trackers(setting)
    assert "\n" not in str(error.value)


def test_auto_is_the_curves_alone_where_tensorboard_is_installed(monkeypatch) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra log")
    (tracker,) = build_trackers("auto").values()
    assert tracker.sounds == tracker.embeddings == 0
    monkeypatch.setattr("speechssl.trackers.tensorboard.find_spec", lambda name: None)
    assert build_trackers("auto") == {}
    assert build_trackers([]) == {}


def same(one: Path, two: Path) -> bool:
    a, b = (read_checkpoint(RunFolder(folder).last)["method"] for folder in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_is_tracked_and_is_the_run_that_it_is_without(
    configuration, corpus, tmp_path, capsys
):
    Recorder.kept.clear()
    wanted = f"train.trackers=[{{name: '{__name__}:Recorder', sounds: 3, embeddings: 5}}]"
    options = {"device": "cpu"}
    out = train(str(configuration), [wanted, "train.steps=4"], out=tmp_path / "a", **options)
    bare = ["train.trackers=[]", "train.steps=4"]
    assert same(out, train(str(configuration), bare, out=tmp_path / "b", **options))
    assert not RunFolder(tmp_path / "b").trackers.exists()
    calls = Recorder.kept[str(out)]
    assert [call[0] for call in calls] == [
        "open", "sounds", "figures", "figures", "figures", "figures", "embeddings", "close",
    ]  # fmt: skip
    _, step, sounds, names, rate = calls[1]
    assert step == 0 and rate == 16000 and [len(sound) for sound in sounds] == [8000, 8000, 4800]
    assert names[0].startswith("u") and names[0].endswith("0.5 s, crop 1")
    assert all(np.abs(sound).max() > 1e-3 for sound in sounds)
    _, step, embeddings, ids = calls[-2]
    assert step == 4 and embeddings.shape == (5, 16)
    assert ids == ["u00", "u04", "u09", "u14", "u19"]
    assert calls[-1] == ("close", True)
    # What is tracked is what users get.
    from speechssl.audio import reading
    from speechssl.model import Model

    model = Model.load(out)
    wave = corpus / "wavs" / "u00.wav"
    with torch.no_grad():
        expected = model(torch.from_numpy(reading.read(wave, 16000))[None])[0]
    np.testing.assert_allclose(embeddings[0], expected.numpy(), atol=1e-5)
    # Others may look on when it is resumed, and get what was before.
    other = f"train.trackers=['{__name__}:Rewinding']"
    Recorder.kept.clear()
    train(str(configuration), [other, "train.steps=4"], out=out, resume=True, **options)
    assert steps(Recorder.kept[str(out)]) == [1, 2, 3, 4]
