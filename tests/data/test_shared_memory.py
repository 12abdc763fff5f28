"""A small /dev/shm: fewer loader workers, and none at all, in place of killed ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from builders import ECAPA

from speechssl.data import loader
from speechssl.data.crops import parse_plan
from speechssl.data.dataset import CropBatches
from speechssl.data.manifest import read_manifest
from speechssl.errors import UserError


@pytest.mark.parametrize(
    ("free", "ranks", "expected"),
    [(None, 1, 4), (1300, 1, 4), (1299, 1, 3), (400, 1, 1), (399, 1, 0), (0, 1, 0), (800, 2, 1)],
)
def test_so_many_workers_as_there_is_room_for(free: int | None, ranks: int, expected: int) -> None:
    assert loader.workers_that_fit(4, 100, free, ranks) == expected


def test_the_size_of_a_batch_is_that_of_its_crops(voices: Path) -> None:
    utterances = read_manifest(voices / "train").utterances
    plan = parse_plan([{"count": 2, "seconds": 0.5}, {"count": 3, "seconds": 0.2}])
    batches = CropBatches(utterances, plan, batch_size=4)
    assert batches.batch_bytes == sum(4 * group.numel() for group in batches[0].groups)


def test_without_shared_memory_batches_are_read_in_this_process(
    voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = read_manifest(voices / "train").utterances
    batches = CropBatches(utterances, parse_plan([{"count": 2, "seconds": 0.5}]), batch_size=4)
    monkeypatch.setattr(loader, "free_shared_memory", lambda: 1000)
    with pytest.warns(UserWarning, match="room for 0 of 2 loader workers; give it more"):
        made = loader.make_loader(batches, 0, 2, workers=2)
    assert made.loader.num_workers == 0
    for step, batch in enumerate(made):
        assert torch.equal(batch.groups[0], batches[step].groups[0])


def test_a_batch_that_finds_no_room_is_one_line(
    voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a training, when something else has filled it."""
    utterances = read_manifest(voices / "train").utterances
    batches = CropBatches(utterances, parse_plan([{"count": 2, "seconds": 0.5}]), batch_size=4)

    def refuse(_tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device"
            " (28)"
        )

    made = loader.make_loader(batches, 0, 3, workers=1, timeout=20)
    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)  # workers are forked later
    with pytest.raises(UserError, match="^data: /dev/shm has no room for a batch; give it more"):
        list(made)


def test_batches_of_workers_are_those_of_the_data_set(voices: Path) -> None:
    utterances = read_manifest(voices / "train").utterances
    batches = CropBatches(utterances, parse_plan([{"count": 2, "seconds": 0.5}]), batch_size=4)
    for step, batch in enumerate(loader.make_loader(batches, 0, 3, workers=2)):
        assert batch.groups[0].is_shared()
        assert torch.equal(batch.groups[0], batches[step].groups[0])


@pytest.mark.slow
@pytest.mark.parametrize("size", ["64k", "16m"])
def test_training_where_shared_memory_is_small(voices: Path, tmp_path: Path, size: str) -> None:
    """With a real small /dev/shm, in a mount namespace; a batch is 3.9 MiB."""
    settings = {
        "data": {
            "train": [str(voices / "train")],
            "crops": [{"count": 2, "seconds": 1.0}],
            "workers": 2,
        },
        "encoder": ECAPA,
        "method": {"name": "simclr"},
        "train": {"steps": 4, "batch_size": 32, "precision": "float32", "threads": 1},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    small = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"'
    isolated = ["unshare", "--mount", "--map-root-user", "sh", "-c", small, "sh"]
    if subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    command = ["train", str(tmp_path / "train.yaml"), "--out", str(tmp_path / "run")]
    ended = subprocess.run(
        [*isolated, sys.executable, "-m", "speechssl", *command, "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    assert "/dev/shm has room for" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "run/model/weights.safetensors").exists()
