"""Utterances decoded once and kept: an epoch after the first reads no audio file any more.

Decoding Ogg Opus or MP3 takes ten times longer than all the rest of a loader's work. Samples are kept
with 16 bits in a temporary file that all loader processes of a machine map into memory: what is used
stays in the memory that the machine has to spare, and no process holds a copy.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.compat import memory_bytes
from speechssl.data.table import UtteranceTable
from speechssl.distributed import from_first_here
from speechssl.errors import UserError
from speechssl.files import is_dead

LONGEST = 60.0
"""Seconds of the longest utterance that is kept: of a longer one, crops are read where they lie."""

_SHARE_OF_MEMORY = 0.25
_SHARE_OF_DISK = 0.5
_FULL_SCALE = 32768.0
_NAME = re.compile(r"speechssl-decoded-(?P<process>\d+)-.*")

ReadFile = Callable[[str, int, float, float, int | None], np.ndarray]
"""Path, sampling rate (Hz), start and stop (seconds) and channel to samples (T,)."""


class DecodedAudio:
    """The utterances of a table that fit, as 16-bit samples.

    An utterance is decoded when it is first asked for, by whichever process asks. One whose samples
    go beyond [-1, 1] is scaled down as a whole. Since the first reading is rounded like all others,
    what is read does not depend on what was read before. Processes of one machine that train together
    share what they decode; each of them makes this object, with the same table and limit.

    Args:
        table: the utterances.
        sample_rate: Hz.
        limit: bytes that may be taken on this machine, of memory and of the disk of temporary files
            ($TMPDIR).
        read_file: reads a span of a file.

    Attributes:
        rows: how many utterances are kept: those of at most `LONGEST` seconds, in the order of the
            table, until `limit` is reached; 0 if the disk has no room for them.
        bytes: that their samples take.
    """

    def __init__(
        self, table: UtteranceTable, sample_rate: int, limit: int, read_file: ReadFile
    ) -> None:
        self._table = table
        self._sample_rate = sample_rate
        self._read_file = read_file
        room = np.ceil(np.minimum(table.seconds, LONGEST) * sample_rate).astype(np.int64) + 1
        room[table.seconds > LONGEST] = 0
        ends = np.cumsum(room)
        kept = (room > 0) & (ends <= limit // 2)
        self._first = np.where(kept, ends - room, -1)
        self._room = room
        self.rows = int(kept.sum())
        samples = int(ends[kept][-1]) if self.rows else 0
        self.bytes = 2 * samples
        self._path = None if samples == 0 else self._reserve(self.bytes + 8 * len(table))
        if self._path is None:
            self.rows = 0
            self._first[:] = -1
        self._map()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a process gets that is not forked: it maps the file anew."""
        mapped = ("_samples", "_counts", "_scales", "_fence")
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file of the process that made it."""
        self.__dict__.update(state)
        self._map()

    def describe(self) -> str:
        """Return a line that says what is kept."""
        if not self.rows:
            return "no utterance is kept decoded: none fits data.decoded_gb and the disk of $TMPDIR"
        return (
            f"{self.rows} of {len(self._table)} utterances are kept once decoded"
            f" ({self.bytes / 1e9:.2g} GB)"
        )

    def holds(self, row: int) -> bool:
        """True if `read` gives this utterance."""
        return bool(self._first[row] >= 0)

    def read(self, row: int, start: float, stop: float) -> np.ndarray:
        """Return samples (T,) float32 of an utterance, decoding it if nobody has done so yet.

        Args:
            row: of the table; one that is held.
            start, stop: seconds from the utterance's beginning; what lies beyond its end means the
                end.

        Raises:
            UserError: the file cannot be read, or ends before `start`.
        """
        if not self._counts[row]:
            self._decode(row)
        with self._fence:  # on some processors what another one wrote can be seen out of order
            count = int(self._counts[row])
            scale = self._scales[row]
        first = round(start * self._sample_rate)
        last = min(count, round(stop * self._sample_rate))
        if first >= last:
            raise UserError(
                f"{self._table.path(row)}: ends {count / self._sample_rate:.3f} s behind the beginning"
                f" of {self._table.id(row)}, before {start:.3f} s; utt2dur does not fit the file"
            )
        begin = int(self._first[row])
        levels: np.ndarray = self._samples[begin + first : begin + last]
        samples: np.ndarray = levels * scale  # float32 as the scale; exact for files of 16 bits
        return samples

    def _decode(self, row: int) -> None:
        begin = float(self._table.start[row])
        end = begin + float(self._table.seconds[row])
        path = self._table.path(row)
        wave = self._read_file(path, self._sample_rate, begin, end, self._table.channel(row))
        wave = wave[: self._room[row]]
        peak = max(1.0, float(np.abs(wave).max()))
        levels = np.rint(wave * (_FULL_SCALE / peak)).clip(-_FULL_SCALE, _FULL_SCALE - 1)
        first = int(self._first[row])
        self._samples[first : first + len(wave)] = levels.astype(np.int16)
        self._scales[row] = peak / _FULL_SCALE
        with self._fence:
            self._counts[row] = len(wave)  # last: from now on, the others read it

    def _reserve(self, size: int) -> str | None:
        """Return a file of zeros that all processes of this machine have, None if there is no room."""

        def reserve() -> str | None:
            path = _reserve(size)
            if path is not None:
                weakref.finalize(self, _remove, path, os.getpid())
            return path

        path = from_first_here(reserve)
        if path is None or os.path.exists(path):
            return path
        return reserve()  # the first one's temporary files are elsewhere: each has a container

    def _map(self) -> None:
        """Map the file: counts (N,) int32 (0: not decoded yet), scales (N,) float32, the samples."""
        self._fence = threading.Lock()
        rows = len(self._table)
        if self._path is None:
            return
        self._counts = np.memmap(self._path, np.int32, "r+", 0, (rows,))
        self._scales = np.memmap(self._path, np.float32, "r+", 4 * rows, (rows,))
        self._samples = np.memmap(self._path, np.int16, "r+", 8 * rows, (self.bytes // 2,))


def memory_to_spare() -> int:
    """Return the bytes that decoded utterances may take unless the user says otherwise.

    They are a quarter of the memory that this process may have, at most half of what is free where
    temporary files lie.
    """
    free = shutil.disk_usage(temporary_folder()).free
    return int(min(_SHARE_OF_MEMORY * memory_bytes(), _SHARE_OF_DISK * free))


def temporary_folder() -> str:
    """Return the folder of the file of samples."""
    return tempfile.gettempdir()


def _reserve(size: int) -> str | None:
    """Make a file of zeros that has its place on the disk; None if there is no room.

    A file with holes would end the process at the write that finds no room.
    """
    _remove_left_ones()
    descriptor, path = tempfile.mkstemp(
        prefix=f"speechssl-decoded-{os.getpid()}-", dir=temporary_folder()
    )
    try:
        os.truncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except OSError:
        _remove(path, os.getpid())
        return None
    finally:
        os.close(descriptor)
    return path


def _remove_left_ones() -> None:
    """Remove what killed processes of this user have left."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(temporary_folder()):
            match = _NAME.fullmatch(entry.name)
            if match is None or int(match["process"]) == os.getpid():
                continue
            if is_dead(int(match["process"])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # and not a forked one
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)
