"""What each tracker has kept, read back by its own client, after a run that was cut off and resumed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from wandb_files import configuration, history

from speechssl import parts
from speechssl.files import RunFolder
from speechssl.interfaces import TrackedRun
from speechssl.train.tracking import Tracking

HOSTILE = "<script>alert(1)</script>\n=cmd()\t[x](http://x.org) \u202e"
ALARM = "collapse alarm: <b>embeddings</b> use 1.2 of 16 directions"
SETTINGS = {"seed": 0, "data": {"train": [HOSTILE]}, "train": {"steps": 8}}
EMBEDDINGS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
TONE = np.sin(np.arange(1600, dtype=np.float32) / 5) / 2


def track(folder: Path, section: Any, first: int, last: int, scale: float) -> None:
    """Track steps first..last, whose loss is scale * step; an alarm at 3, embeddings at 8."""
    run = TrackedRun(folder, HOSTILE, SETTINGS, {"commit": None}, first - 1, None)
    tracker = parts.build("trackers", section)
    tracking = Tracking({section["name"]: tracker}, RunFolder(folder), run, resumed=first > 1)
    if first == 1:
        tracking.add_sounds(0, [TONE, -TONE], [HOSTILE, "b"], 16000)
    with RunFolder(folder).log.open("a") as log:
        for step in range(first, last + 1):
            figures = {"loss": scale * step, "kl": float("nan"), "unreadable": 1}
            alarms = [ALARM] if step == 3 else []
            tracking.add(step, figures, alarms)
            log.write(json.dumps({"step": step, **figures}) + "\n")
    if last == 8:
        tracking.add_embeddings(8, EMBEDDINGS, [HOSTILE, "b", "c"], last=True)
    tracking.close(finished=last == 8)


def track_cut_off_and_resumed(folder: Path, section: Any, capsys: Any) -> str:
    """Steps 1 to 6, then 5 to 8 again from the checkpoint after 4; return the id."""
    track(folder, section, 1, 6, scale=1.0)
    before = json.loads(RunFolder(folder).trackers.read_text())[section["name"]]
    assert before["step"] == 6
    track(folder, section, 5, 8, scale=10.0)
    after = json.loads(RunFolder(folder).trackers.read_text())[section["name"]]
    assert (after["id"], after["step"]) == (before["id"], 8)
    assert "warning" not in capsys.readouterr().err
    return str(after["id"])


def test_tensorboard_has_the_steps_that_were_taken_again_and_shows_ids_as_text(
    tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra log")
    from google.protobuf import text_format
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.projector import projector_config_pb2
    from tensorboard.util import tensor_util

    track_cut_off_and_resumed(tmp_path, {"name": "tensorboard"}, capsys)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60), (7, 70), (8, 80)]
    assert np.isnan(events.Scalars("kl")[0].value)
    (alarm,) = events.Tensors("alarms/text_summary")
    said = tensor_util.make_ndarray(alarm.tensor_proto)[0].decode()
    assert alarm.step == 3 and "embeddings" in said and "<b>" not in said
    (written,) = events.Tensors("configuration/text_summary")
    lines = tensor_util.make_ndarray(written.tensor_proto)[0].decode().splitlines()
    assert all(line.startswith("    ") for line in lines)
    (sound,) = events.Audio("crops/2")
    assert sound.sample_rate == 16000 and sound.length_frames == 1600
    folder = tmp_path / "tensorboard"
    projector = projector_config_pb2.ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector)
    (entry,) = projector.embeddings
    np.testing.assert_allclose(np.loadtxt(folder / entry.tensor_path), EMBEDDINGS, rtol=1e-6)
    labels = (folder / entry.metadata_path).read_text().splitlines()
    assert len(labels) == 3 and labels[1:] == ["b", "c"]


def test_the_projector_keeps_its_tensors_when_a_run_is_resumed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra log")
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    run = TrackedRun(tmp_path, "run", SETTINGS, {}, 0, None)
    for start, steps in ((0, (2, 4, 6)), (3, (4, 8))):
        tracker = parts.build("trackers", {"name": "tensorboard", "embeddings_every": 2})
        tracker.open(run._replace(step=start, id="tensorboard" if start else None))
        for step in steps:
            tracker.add_embeddings(step, EMBEDDINGS * (start + step), [f"a{start}", "b", "c"])
        tracker.close(True)
    projector = projector_config_pb2.ProjectorConfig()
    folder = tmp_path / "tensorboard"
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector)
    names = [entry.tensor_name for entry in projector.embeddings]
    assert names == ["embeddings:00000002", "embeddings:00000004", "embeddings:00000008"]
    again = projector.embeddings[1]  # 6 was after the checkpoint, and 4 was taken again
    np.testing.assert_allclose(np.loadtxt(folder / again.tensor_path), EMBEDDINGS * 7, rtol=1e-6)
    assert (folder / again.metadata_path).read_text().startswith("a3\n")


@pytest.mark.parametrize(
    ("mode", "said", "logged_in", "chosen"),
    [
        ("auto", "disabled", True, "disabled"),
        ("auto", "offline", True, "offline"),
        ("auto", None, True, "online"),
        ("auto", None, False, "offline"),
        ("online", "disabled", True, "online"),
        ("offline", "online", True, "offline"),
    ],
)
def test_wandb_goes_where_the_user_said(
    mode: Any, said: str | None, logged_in: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With WANDB_MODE=disabled nothing must be sent, whoever is logged in."""
    pytest.importorskip("wandb", reason="needs the extra track")
    from speechssl.trackers.wandb import WeightsAndBiases

    if said is not None:
        monkeypatch.setenv("WANDB_MODE", said)
    library = SimpleNamespace(login=lambda prompt, verify: logged_in)
    assert WeightsAndBiases(mode=mode)._chosen_mode(library) == chosen


def test_wandb_keeps_each_step_once_offline_under_one_id(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("wandb", reason="needs the extra track")
    section = {"name": "wandb", "mode": "offline", "project": "tests"}
    identity = track_cut_off_and_resumed(tmp_path, section, capsys)
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # wandb adds "-1" where both parts began in the same second
    assert all(identity in folder.name for folder in folders)
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + 30
    while len(rows) < 8 and time.monotonic() < deadline:  # its service writes on behind `finish`
        rows = [row for row in history(tmp_path) if "loss" in row]
        time.sleep(0.05)
    assert [(row["_step"], row["loss"]) for row in rows] == [
        (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 70), (8, 80),
    ]  # fmt: skip
    assert [row["alarm"] for row in rows if "alarm" in row] == [ALARM]
    (first,) = [row for row in history(tmp_path) if "crops/count" in row or "crops" in row]
    assert first["_step"] == 0
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/audio/*.wav"))) == 2
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.table.json")
    written = json.loads(table.read_text())
    assert written["columns"] == ["utterance", "d0", "d1", "d2", "d3"]
    np.testing.assert_allclose([row[1:] for row in written["data"]], EMBEDDINGS, rtol=1e-6)
    assert configuration(tmp_path)["data"] == SETTINGS["data"]


def test_mlflow_keeps_each_step_once_in_one_run(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("mlflow", reason="needs the extra track")
    pytest.importorskip("alembic", reason="needs the extra track")
    identity = track_cut_off_and_resumed(tmp_path, {"name": "mlflow"}, capsys)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'speechssl'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == identity and run.info.status == "FINISHED"
    losses = client.get_metric_history(identity, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [
        (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 70), (8, 80),
    ]  # fmt: skip
    assert run.data.params["train.steps"] == "8" and run.data.params["seed"] == "0"
    assert run.data.tags["alarm"] == ALARM
    folder = tmp_path / "mlflow" / "artefacts" / identity / "artifacts"
    assert (folder / "alarms" / "step-00000003.txt").read_text().strip() == ALARM
    assert sorted(path.name for path in (folder / "crops").iterdir()) == [
        "1.wav", "2.wav", "names.tsv",
    ]  # fmt: skip
    with np.load(folder / "embeddings" / "step-00000008.npz") as kept:
        assert kept["ids"].tolist() == [HOSTILE, "b", "c"]
        np.testing.assert_array_equal(kept["embeddings"], EMBEDDINGS)


@pytest.mark.parametrize("where", ["tensorboard", "mlflow", "no server"])
def test_a_real_failure_is_one_warning_and_the_log_goes_on(
    where: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file lies where a tracker wants a folder, or nobody listens at the address of its server."""
    section: dict[str, Any] = {"name": where}
    if where == "no server":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        section = {"name": "mlflow", "uri": "http://127.0.0.1:9"}
    else:
        (tmp_path / where).write_text("in the way")
    for module in {"mlflow": ("mlflow", "alembic")}.get(section["name"], (section["name"],)):
        pytest.importorskip(module)
    track(tmp_path, section, 1, 8, scale=1.0)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert line.startswith(f"speechssl: warning: tracker {section['name']}: ")
    assert line.endswith("the training goes on without it, and log.jsonl has everything")
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 8
