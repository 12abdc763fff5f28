"""Saving the state of a run and snapshots of its encoder so that a kill never damages them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.errors import writing
from speechssl.files import RunFolder, atomic_write, remove_partial


def save_state(value: Any, path: Path) -> None:
    """Write with ``torch.save``, and flush to disk before the new file replaces the old one.

    What a save of `path` that was killed has left behind is removed.

    Raises:
        UserError: the disk refused; what `path` held before stays.
    """
    remove_partial(path)
    with writing(path), atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's, of an archive that is cut off, hides the disk's
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def save_snapshot(run: RunFolder, step: int, encoder: Mapping[str, Tensor], keep: int) -> None:
    """Write the encoder after ``step`` steps and remove all snapshots but the last ``keep``."""
    run.snapshots.mkdir(exist_ok=True)
    save_state(dict(encoder), run.snapshots / f"step-{step:08d}.pt")
    for old in snapshots(run)[:-keep]:
        old.unlink()


def snapshots(run: RunFolder) -> list[Path]:
    """Return the encoder snapshots of a run, oldest first."""
    found = run.snapshots.glob("step-*.pt")
    return sorted(path for path in found if path.stem.removeprefix("step-").isdecimal())


def step_of(snapshot: Path) -> int:
    """Return after how many steps a snapshot was taken."""
    return int(snapshot.stem.removeprefix("step-"))
