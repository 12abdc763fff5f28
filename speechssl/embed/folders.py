"""The output of `embed_to_file` where `--out` is a folder: parquet files, which nothing gathers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechssl.audio.remotes import is_address, refuse_half_address
from speechssl.data.vectors.files import formats
from speechssl.data.vectors.folder_writer import FolderWriter
from speechssl.data.vectors.format import Span
from speechssl.data.vectors.places import Place
from speechssl.embed.batches import Failure
from speechssl.errors import UserError

_DONE = "_done-{rank}.json"


def means_folder(out: str) -> bool:
    """True if an output is a folder of parquet files and not a file.

    It ends in a slash, is there as a folder, or its name has no ending.

    Raises:
        UserError: it is the address of a file, or half an address (`s3:/bucket/x`).
    """
    refuse_half_address(out)
    if is_address(out):
        suffix = Path(out.rstrip("/")).suffix.lower()
        if suffix in formats() and not out.endswith("/"):
            raise UserError(
                f"{out}: only a folder of parquet files is written to an address; give"
                f" {out.removesuffix(suffix)}/"
            )
        return True
    if out == "-":
        return False
    return out.endswith("/") or Path(out).is_dir() or not Path(out).suffix


class FolderShare(FolderWriter):
    """What one process adds to the folder; it has the interface of `partial.PartialWriter`.

    Args:
        name: the folder's path or address.
        spans: id -> where it lies in its recording, for windows.
    """

    def __init__(self, name: str, spans: Mapping[str, Span]) -> None:
        super().__init__(Place(name))
        self._span_of = spans

    def write(
        self,
        identifier: str,
        vector: npt.NDArray[np.float32],
        audio_seconds: float,
        span: Span | None = None,
    ) -> None:
        """Add one embedding (D,), with its span."""
        super().write(identifier, vector, audio_seconds, span or self._span_of.get(identifier))

    def finish(self, rank: int, failed: Sequence[Failure], seconds: float) -> None:
        """Flush, and record that this process is done.

        Args:
            rank: its number.
            failed: what it could not embed.
            seconds: of audio that it embedded.
        """
        self.flush()
        report = {
            "failed": [asdict(failure) for failure in failed],
            "seconds": seconds,
            "written": self.written,
        }
        self.place.write(_DONE.format(rank=rank), json.dumps(report).encode())


def forget_reports(place: Place) -> None:
    """Remove what an earlier run's processes recorded."""
    for entry in place.files():
        if entry.name.startswith("_done-"):
            place.remove(entry.name)


def take_reports(place: Place) -> tuple[list[Failure], float, int]:
    """Return the failures, seconds and number of embeddings of all processes, and forget them."""
    failed: list[Failure] = []
    seconds = 0.0
    written = 0
    for entry in place.files():
        if entry.name.startswith("_done-"):
            report: dict[str, Any] = json.loads(place.read(entry.name, entry.size) or b"{}")
            failed += [Failure(**failure) for failure in report["failed"]]
            seconds += report["seconds"]
            written += report["written"]
    forget_reports(place)
    return failed, seconds, written
