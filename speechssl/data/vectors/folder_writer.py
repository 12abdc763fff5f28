"""Writing a folder of parquet files, by as many processes at once as one likes.

Each process writes files of its own, with random names, each of them whole or not at all. So the
files that are there can be used, even after a process was killed. `_made_by.json` holds what decides
the numbers (a digest of model and settings): a folder never mixes those of two models.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.folder import ENDING, VectorFolder, is_part
from speechssl.data.vectors.format import Span
from speechssl.data.vectors.npz import columns
from speechssl.data.vectors.parquet import as_table, pyarrow_or_refuse
from speechssl.data.vectors.places import Place
from speechssl.errors import UserError

MADE_BY = "_made_by.json"
LAYOUT = 1
"""Layout of the folder; a higher number where an older package could not go on with it."""

PART_ROWS = 16_384
"""Rows of a full file, which is one row group: 13 MB of 192-d embeddings."""

PART_SECONDS = 120.0
"""A file is written after this time, if it is not full: what a killed process loses."""


def open_folder(place: Place, made_by: str, resume: bool) -> set[str]:
    """Make a folder ready to be added to, and return the ids that it holds.

    Args:
        place: the folder; it need not exist.
        made_by: what decides the numbers (a digest of model and settings).
        resume: go on from what is there.

    Raises:
        UserError: it holds embeddings without `resume`, those of another model, or other files;
            or it cannot be read or written.
    """
    pyarrow_or_refuse()
    names = [entry.name for entry in place.files()]
    has_parts = any(is_part(name) for name in names)
    others = [name for name in names if not is_part(name) and not name.startswith((".", "_"))]
    if others:
        raise UserError(
            f"{place.name}: holds other files, such as {others[0]!r}; give a folder of its own"
        )
    if has_parts and not resume:
        raise UserError(
            f"{place.name}: holds embeddings already; go on with --resume, or give another --out"
        )
    about = place.read(MADE_BY)
    if has_parts and about != _about(made_by):
        raise UserError(
            f"{place.name}: was made by another model or with other settings; give another --out"
        )
    place.write(MADE_BY, _about(made_by))
    return set(VectorFolder(place.name).ids()) if has_parts else set()


def _about(made_by: str) -> bytes:
    return json.dumps({"format": LAYOUT, "made_by": made_by}).encode()


class FolderWriter:
    """Writes the embeddings of one process, a file at a time.

    Args:
        place: the folder.
        rows: embeddings in a full file.
        seconds: time after which a file is written, if it holds fewer.
    """

    def __init__(self, place: Place, rows: int = PART_ROWS, seconds: float = PART_SECONDS) -> None:
        self.place = place
        self.rows = rows
        self.seconds = seconds
        self.written = 0
        self._flushed_at = time.monotonic()
        self._ids: list[str] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._audio: list[float] = []
        self._spans: list[Span] = []

    def write(
        self,
        identifier: str,
        vector: NDArray[np.float32],
        audio_seconds: float,
        span: Span | None = None,
    ) -> None:
        """Add an embedding.

        Args:
            identifier: of the utterance.
            vector: (D,).
            audio_seconds: audio behind it.
            span: where it lies in its recording, for windows: all have one or none.

        Raises:
            UserError: a full file cannot be written.
        """
        self._ids.append(identifier)
        self._vectors.append(vector)
        self._audio.append(audio_seconds)
        if span is not None:
            self._spans.append(span)
        waited = time.monotonic() - self._flushed_at
        if len(self._ids) >= self.rows or waited > self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a file.

        Raises:
            UserError: it cannot be written.
        """
        self._flushed_at = time.monotonic()
        if not self._ids:
            return
        matrix = np.stack(self._vectors)
        name = f"part-{uuid.uuid4().hex}{ENDING}"
        self.place.write(name, part_bytes(self._ids, matrix, self._audio, self._spans))
        self.written += len(self._ids)
        self._ids = []
        self._vectors = []
        self._audio = []
        self._spans = []


def part_bytes(
    ids: list[str],
    vectors: NDArray[np.float32],
    audio_seconds: Sequence[float],
    spans: Sequence[Span] = (),
) -> memoryview:
    """Return the bytes of a file of the folder.

    Embeddings are stored as they are: they compress by a tenth, and every pass over them would pay.

    Args:
        ids: N of them.
        vectors: (N, D).
        audio_seconds: (N,).
        spans: where each lies in its recording, for windows; otherwise empty.

    Raises:
        UserError: an id is not UTF-8.
    """
    arrow = pyarrow_or_refuse()
    table = as_table(arrow, ids, vectors)
    table = table.append_column("seconds", arrow.array(audio_seconds, arrow.float32()))
    for name, values in columns(spans).items():
        table = table.append_column(name, arrow.array(values.tolist()))
    file = io.BytesIO()
    arrow.parquet.write_table(
        table,
        file,
        row_group_size=len(ids),
        write_statistics=False,
        write_page_checksum=True,
        use_dictionary=[name for name in ("recording", "channel") if name in table.column_names],
        compression={name: "ZSTD" for name in table.column_names if name != "embedding"},
    )
    return file.getbuffer()
