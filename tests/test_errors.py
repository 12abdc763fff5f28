"""What ran out on a machine is one line; other errors are left to their tracebacks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from speechssl.errors import (
    MachineError,
    UserError,
    refuse_without_descriptors,
    what_ran_out,
    writing,
)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_a_disk_refuses_names_the_output(number: int) -> None:
    with pytest.raises(UserError, match="out: cannot be written") as caught, writing("out"):
        raise OSError(number, os.strerror(number), "temporary")
    assert os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.wav"), "a.wav: Too many open files; "),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "make room"),
        (MemoryError(), "out of memory; "),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory; "),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "of the GPU"),
        (MachineError("no more"), "no more"),
    ],
)
def test_what_ran_out(error: Exception, said: str) -> None:
    line = what_ran_out(error)
    assert line is not None
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("shape"), FileNotFoundError(errno.ENOENT, "no file")]
)
def test_defects_keep_their_tracebacks(error: Exception) -> None:
    assert what_ran_out(error) is None
    refuse_without_descriptors(error)


def test_a_missing_descriptor_is_nobodys_file(tmp_path: Path) -> None:
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(tmp_path / "a.wav"))
    with pytest.raises(MachineError, match="a.wav: Too many open files; give this process more"):
        refuse_without_descriptors(error)
