"""The loader's worker processes when the one that trains is interrupted."""

from __future__ import annotations

import subprocess
import sys

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
