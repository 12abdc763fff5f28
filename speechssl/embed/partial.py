"""Partial results: what the processes of a run have embedded so far, until it is merged.

They lie in the folder `<out>.parts`. A part is `NAME.npy` (N, D) with its ids in
`NAME.ids.json`. The ids are written last, so a part counts once they are there:
whenever a run is killed, it leaves whole parts behind, and `--resume` goes on from
them. A process that is done writes `done-RANK.json`, its failures and seconds of audio.
"""

from __future__ import annotations

import io
import json
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechssl.data.vectors.files import VectorWriter
from speechssl.data.vectors.format import Span
from speechssl.embed.batches import Failure
from speechssl.errors import UserError, writing
from speechssl.files import atomic_write, remove_leftovers, write_text

_MADE_BY = "made_by.json"
_IDS = ".ids.json"
COPY = "model-"
"""Beginning of the name of the folder from which several processes load the model."""
_MERGED_BYTES = 1 << 26  # of embeddings that are gathered at a time when parts are merged


def open_partial_results(folder: Path, made_by: str, resume: bool) -> set[str]:
    """Make the folder of parts ready and return the ids that it already holds.

    Args:
        folder: the folder of parts; it need not exist.
        made_by: what decides the numbers (a digest of model and settings).
        resume: keep the parts that are there; otherwise they are removed.

    Raises:
        UserError: the parts were made by another model or with other settings, or the
            folder cannot be used.
    """
    mark = folder / _MADE_BY
    try:
        if mark.exists() and not resume:
            remove_partial_results(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            _forget_parts(folder)  # nobody knows which model made them
        elif _read_json(mark) != made_by:
            raise UserError(
                f"embed: {folder} was made by another model or with other settings; run without"
                " --resume to start again"
            )
        for pattern in ("done-*.json", "error-*.json"):
            for report in folder.glob(pattern):
                report.unlink()
        for copy in folder.glob(f"{COPY}*"):
            shutil.rmtree(copy)
        remove_leftovers(folder)
        write_json(mark, made_by)
        done: set[str] = set()
        for ids in folder.glob(f"*{_IDS}"):
            done.update(_read_json(ids))
    except (OSError, ValueError) as error:
        raise UserError(
            f"embed: {folder} cannot be used ({error}); remove it or choose another --out"
        ) from error
    return done


def remove_partial_results(folder: Path) -> None:
    """Remove the folder of parts. If that is interrupted, what is left counts for no later run."""
    _forget_parts(folder)
    shutil.rmtree(folder)


def _forget_parts(folder: Path) -> None:
    for ids in folder.glob(f"*{_IDS}"):
        ids.unlink()


class PartialWriter:
    """Writes the embeddings of one process, a part at a time.

    Args:
        folder: the folder of parts.
        size: embeddings after which a part is written.
        seconds: time after which it is written, if it holds fewer.
    """

    def __init__(self, folder: Path, size: int = 2000, seconds: float = 30.0) -> None:
        self.folder = folder
        self.size = size
        self.seconds = seconds
        self._written_at = time.monotonic()
        self._ids: list[str] = []
        self._vectors: list[npt.NDArray[np.float32]] = []

    def write(
        self, identifier: str, vector: npt.NDArray[np.float32], audio_seconds: float = 0.0
    ) -> None:
        """Add one embedding (D,); the seconds of audio behind it are not kept."""
        self._ids.append(identifier)
        self._vectors.append(vector)
        waited = time.monotonic() - self._written_at
        if len(self._ids) >= self.size or waited > self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a part."""
        self._written_at = time.monotonic()
        if not self._ids:
            return
        name = uuid.uuid4().hex
        # Not by np.save into a file: on a full disk it drops the end of a small array silently.
        array = io.BytesIO()
        np.save(array, np.stack(self._vectors))
        with writing(self.folder):
            with atomic_write(self.folder / f"{name}.npy") as temporary:
                temporary.write_bytes(array.getbuffer())
            write_json(self.folder / f"{name}{_IDS}", self._ids)
        self._ids = []
        self._vectors = []

    def finish(self, rank: int, failed: Sequence[Failure], seconds: float) -> None:
        """Flush, and record that this process is done.

        Args:
            rank: its number.
            failed: what it could not embed.
            seconds: of audio that it embedded.
        """
        self.flush()
        report = {"failed": [asdict(failure) for failure in failed], "seconds": seconds}
        with writing(self.folder):
            write_json(self.folder / f"done-{rank}.json", report)


def read_reports(folder: Path, order: Sequence[str]) -> tuple[list[Failure], float]:
    """Return the failures of all processes, in the order of the ids `order`, and their seconds."""
    failed: list[Failure] = []
    seconds = 0.0
    for path in folder.glob("done-*.json"):
        report = _read_json(path)
        failed += [Failure(**failure) for failure in report["failed"]]
        seconds += report["seconds"]
    place = {identifier: index for index, identifier in enumerate(order)}
    failed.sort(key=lambda failure: place[failure.id])
    return failed, seconds


def merge(
    folder: Path,
    order: Sequence[str],
    writer: VectorWriter,
    spans: Mapping[str, Span] | None = None,
) -> int:
    """Write the embeddings of all parts; return their number.

    Some 64 MB of them are in memory at a time, beside what the writer holds.

    Args:
        folder: the folder of parts.
        order: ids in the order in which they are written.
        writer: of the file.
        spans: id -> where it lies in its recording, if they are windows.
    """
    place_of: dict[str, tuple[int, int]] = {}
    arrays: list[Path] = []
    for path in sorted(folder.glob(f"*{_IDS}")):
        for row, identifier in enumerate(_read_json(path)):
            place_of[identifier] = (len(arrays), row)
        arrays.append(path.with_name(path.name.removesuffix(_IDS) + ".npy"))
    present = [identifier for identifier in order if identifier in place_of]
    if not present:
        return 0
    dim = np.load(arrays[0], mmap_mode="r").shape[1]
    size = max(1, _MERGED_BYTES // (4 * dim))
    for first in range(0, len(present), size):
        ids = present[first : first + size]
        vectors = _gathered(arrays, [place_of[identifier] for identifier in ids], dim)
        writer.write(ids, vectors, [spans[identifier] for identifier in ids] if spans else None)
    return len(present)


def _gathered(
    arrays: Sequence[Path], places: Sequence[tuple[int, int]], dim: int
) -> npt.NDArray[np.float32]:
    """Return the rows (n, `dim`) at some places: which of the arrays, and which row of it.

    One array is open at a time: a long run has more parts than a process may have open files.
    """
    part, row = np.array(places).T
    vectors = np.empty((len(places), dim), np.float32)
    by_part = np.argsort(part, kind="stable")
    for here in np.split(by_part, np.flatnonzero(np.diff(part[by_part])) + 1):
        vectors[here] = np.load(arrays[part[here[0]]], mmap_mode="r")[row[here]]
    return vectors


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(value))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
