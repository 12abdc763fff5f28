"""The temporary folder of `embed --out -`: gone after a run, or with the next one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from speechssl.embed.scratch import scratch_folder
from speechssl.errors import UserError

HOLD = """
import time
from speechssl.embed.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "parts").mkdir()
    (folder / "parts/a.npy").write_text("half")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, here and in the processes that are started."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_killed_run_leaves_its_folder_to_the_next_one(temporary: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    held = Path(holder.stdout.readline().strip())
    others = [temporary / "speechssl-scratch-mine", temporary / "speechssl-scratch-99999999-link"]
    others[0].mkdir()
    others[1].symlink_to(others[0])
    with scratch_folder() as folder:
        assert folder.is_dir()
        assert held.is_dir()  # its process lives
    assert not folder.exists()
    holder.kill()
    holder.wait()
    assert held.is_dir()
    with scratch_folder():
        assert not held.exists()
    assert sorted(temporary.iterdir()) == sorted(others)


def test_a_failure_removes_the_folder(temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_folder():
        _ = 1 / 0
    assert list(temporary.iterdir()) == []


def test_no_temporary_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match="none: cannot be written"), scratch_folder():
        pass
