"""Ctrl-C while a command is still importing: one word and 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ROOT

HOOK = """
import os, signal, sys

class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            sys.meta_path.remove(Interrupt)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
"""


@pytest.mark.parametrize(
    "module",
    [
        "speechssl.cli",
        "speechssl.cli.command",
        "speechssl.processes",
        "speechssl.cli.embed",
        "numpy",
        "numpy.linalg",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("torch", "torch.nn", "safetensors", "omegaconf", "speechssl.model")
        ),
    ],
)
def test_ctrl_c_during_an_import_is_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    ended = subprocess.run(
        [sys.executable, "-m", "speechssl", "embed", "no-model", "no.wav", "--out", "e.npz"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "INTERRUPT_AT": module,
        },
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert ended.returncode == 128 + signal.SIGINT, ended.stderr
    assert ended.stderr == "speechssl: interrupted\n"
    assert not (tmp_path / "e.npz").exists()
