"""The loader's worker processes when the one that trains is interrupted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HANGS_UP = """
import multiprocessing.process
import multiprocessing.resource_sharer
from multiprocessing.connection import Client

import torch
from torch.utils.data import Dataset

from speechssl.data.crops import Batch
from speechssl.data.loader import make_loader

class Steps(Dataset):
    batch_bytes = 400
    def __getitem__(self, step):
        return Batch(step, [torch.zeros(100)], torch.tensor([step]), [])

def interrupted(ident):
    # Where Ctrl-C arrives once the connection is there and before the batch is.
    Client(ident[0], authkey=multiprocessing.process.current_process().authkey).close()
    raise KeyboardInterrupt

multiprocessing.resource_sharer._ResourceSharer.get_connection = staticmethod(interrupted)
try:
    next(iter(make_loader(Steps(), 0, 20, workers=1)))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="batches are handed over by descriptors there")
def test_a_worker_says_nothing_when_the_process_that_trains_hangs_up() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS_UP], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


@pytest.mark.parametrize(
    ("error", "is_said"), [("EOFError", False), ("BrokenPipeError", False), ("ValueError", True)]
)
def test_only_a_lost_connection_is_passed_over(error: str, is_said: bool) -> None:
    script = (
        "import multiprocessing, sys, threading\n"
        "from speechssl.processes import end_with_parent\n"
        "def work():\n"
        "    end_with_parent()\n"
        "    try:\n"
        f"        raise {error}('why')\n"
        "    except Exception:\n"
        "        sys.excepthook(*sys.exc_info())\n"
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('fork').Process(target=work)\n"
        "    worker.start()\n"
        "    worker.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert (f"{error}: why" in done.stderr) == is_said
    assert is_said or not done.stderr


LONG = """
import sys, tempfile
import torch
from torch.utils.data import Dataset

from speechssl.data.crops import Batch
from speechssl.data.loader import make_loader
from speechssl.errors import UserError

class Steps(Dataset):
    def __getitem__(self, step):
        return Batch(step, [torch.zeros(100)], torch.tensor([step]), [])

try:
    print([int(batch.indices) for batch in make_loader(Steps(), 0, 3, workers=1, timeout=20)])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("length", [70, 90])
def test_workers_hand_over_batches_or_the_name_of_their_folder_is_too_long(tmp_path, length):
    folder = (
        Path("/tmp") / f"{tmp_path.parent.name}-{tmp_path.name}".ljust(length, "x")[: length - 5]
    )
    folder.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, "-c", LONG], capture_output=True, text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert done.stderr == ""
    if length == 70:
        assert done.stdout == "[0, 1, 2]\n"
    else:  # or Python has taken another folder by itself
        said = f"data: {folder} is too long for the sockets of loader workers; set TMPDIR"
        assert done.stdout.startswith((said, "[0, 1, 2]"))
