"""A second command that would write where one is writing is refused; the first is not disturbed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import ECAPA, make_model

from speechssl.cli import main
from speechssl.data.vectors.files import write_vectors
from speechssl.errors import UserError
from speechssl.locks import sole_writer


@pytest.fixture
def world(tmp_path: Path, voices: Path) -> Path:
    """Small inputs of every verb; the output is `out`."""
    make_model().save(tmp_path / "model")
    (tmp_path / "data").symlink_to(voices / "train")
    rng = np.random.default_rng(0)
    write_vectors(tmp_path / "e.npz", [f"u{n}" for n in range(20)], rng.normal(size=(20, 4)))
    training = {
        "data": {"train": [str(tmp_path / "data")], "crops": [{"count": 2, "seconds": 0.5}]},
        "encoder": ECAPA,
        "method": {"name": "dino"},
        "train": {"steps": 2, "batch_size": 4},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(training))
    federated = {
        **training,
        "federated": {"rounds": 1, "local_steps": 1},
        "train": {"batch_size": 4},
    }
    (tmp_path / "federated.yaml").write_text(yaml.safe_dump(federated))
    rounds = {
        "start": str(tmp_path / "model"),
        "data": [str(tmp_path / "data")],
        "train": str(tmp_path / "train.yaml"),
        "clusterer": {"name": "kmeans", "n_clusters": 4},
    }
    (tmp_path / "pseudolabel.yaml").write_text(yaml.safe_dump(rounds))
    (tmp_path / "out").mkdir()
    return tmp_path


COMMANDS = {
    "prepare": "prepare synthetic {w}/audio {w}/out --speakers 4 --evaluation-speakers 2",
    "shard": "shard {w}/data {w}/out",
    "train": "train {w}/train.yaml --out {w}/out --device cpu",
    "resume": "train {w}/train.yaml --out {w}/out --device cpu --resume",
    "cluster": "cluster {w}/e.npz n_clusters=3 --out {w}/out",
    "finetune": (
        "finetune {w}/model {w}/data --labels {w}/data/utt2emotion --groups {w}/data/utt2spk"
        " --out {w}/out"
    ),
    "pseudolabel": "pseudolabel {w}/pseudolabel.yaml --out {w}/out --device cpu",
    "evaluate verification": "evaluate verification {w}/e.npz --trials {w}/no --out {w}/out",
    "evaluate classification": (
        "evaluate classification {w}/e.npz --labels {w}/data/utt2emotion --groups {w}/data/utt2spk"
        " --out {w}/out"
    ),
    "diagnose": "diagnose {w}/e.npz --out {w}/out",
    "report": "report {w}/out",
    "finetune --save": (
        "finetune {w}/model {w}/data --labels {w}/data/utt2emotion --groups {w}/data/utt2spk"
        " --save {w}/out"
    ),
    "export": "export {w}/model --to huggingface --out {w}/out",
    "federate": "federate {w}/federated.yaml --out {w}/out --device cpu",
    "index": "index {w}/e.npz --out {w}/out",
    "adapt": "adapt {w}/model {w}/data --out {w}/out --device cpu",
    "sweep": "sweep {w}/train.yaml seed=0,1 --out {w}/out --device cpu",
    "diarize": "diarize {w}/model {w}/data --out {w}/out --device cpu",
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_second_command_in_one_folder_is_refused(
    world: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(w=world) for word in COMMANDS[verb].split()]
    with sole_writer(world / "out"):
        assert main(words) == 2
        assert [path.name for path in (world / "out").iterdir()] == [".lock"]
    error = capsys.readouterr().err
    assert "is writing it" in error
    assert error.count("\n") <= 2  # train tells its threads
    assert list((world / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["e.npz", "e.ark", "e.parquet"])
def test_a_second_embedding_into_one_file_is_refused(
    world: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = world / "out" / name
    with sole_writer(out):
        assert main(["embed", str(world / "model"), str(world / "data"), "--out", str(out)]) == 2
        assert [path.name for path in (world / "out").iterdir()] == [f".{name}.lock"]
    assert "is writing it" in capsys.readouterr().err


TABLES = {
    "score": "score {w}/e.npz --all-pairs --out {w}/out/table",
    "search": "search {w}/index {w}/e.npz --out {w}/out/table",
    "register": "register {w}/model {w}/data --out {w}/out/table.safetensors",
    "diarize": "diarize {w}/model {w}/data --out {w}/out/table.rttm",
}


@pytest.mark.parametrize("verb", TABLES)
def test_a_second_table_is_refused(
    world: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(w=world) for word in TABLES[verb].split()]
    out = Path(words[-1])
    with sole_writer(out):
        assert main(words) == 2
        assert not out.exists()
    assert "is writing it" in capsys.readouterr().err


def test_prepare_locks_the_audio_that_it_generates(world: Path) -> None:
    (world / "audio").mkdir()
    words = ["prepare", "synthetic", str(world / "audio"), str(world / "out")]
    with sole_writer(world / "audio"):
        assert main([*words, "--speakers", "4", "--evaluation-speakers", "2"]) == 2


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.lock").mkdir()
    with pytest.raises(UserError, match="cannot be written"), sole_writer(tmp_path / "out"):
        pass


def test_a_refused_or_failed_command_leaves_no_empty_folder(world: Path) -> None:
    new = world / "new"
    assert main(["cluster", str(world / "no.npz"), "--out", str(new)]) == 2
    assert not new.exists()


def test_leftovers_of_dead_processes_are_swept(
    world: Path, dead_process: int, living_process: Callable[[], int]
) -> None:
    out = world / "out"
    (out / "model").mkdir()
    dead = [out / f".clusters.{dead_process}.partial.json", out / "model/.a.99999999.partial"]
    alive = out / f".clusters.{living_process()}.partial.json"
    for path in (*dead, alive):
        path.write_text("half")
    assert main(["cluster", str(world / "e.npz"), "n_clusters=3", "--out", str(out)]) == 0
    assert not any(path.exists() for path in dead)
    assert alive.exists()
