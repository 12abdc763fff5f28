"""Copies of remote shards on a local disk: fetched before they are needed, and no more than fit.

A shard is fetched once for all processes of a machine, by many range requests at a time: what a
store answers after 50 ms, it answers 16 times in 50 ms. When the folder is full, the copies that
were used longest ago are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechssl.audio import members, reading
from speechssl.audio.remotes import Remote
from speechssl.errors import UserError, writing
from speechssl.files import is_dead, writer_of
from speechssl.pools import ThreadPool

try:
    import fcntl
except ImportError:  # Windows: then two processes may fetch the same shard
    fcntl = None  # type: ignore[assignment]

PART_BYTES = 4 << 20
"""Bytes of a range request."""

REQUESTS = 16
"""Requests in flight for a shard."""

_SHARDS_AT_ONCE = 2
_POLL = 0.02  # seconds between looks at a shard that another process fetches
_LEFT_SECONDS = 600.0  # without a byte; until then, a process that is not here may be elsewhere


def default_folder() -> Path:
    """Return the folder of this user for copies of shards."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "speechssl" / "shards"


class ShardCache:
    """Copies of archives behind addresses.

    It is made in the process that trains, and used in its loader workers: threads begin where they
    are needed.

    Args:
        folder: for the copies; None: `default_folder`.
        gigabytes: that they may take.

    Raises:
        UserError: the folder cannot be made, or no room at all.
    """

    def __init__(self, folder: str | Path | None, gigabytes: float) -> None:
        if not gigabytes > 0:
            raise UserError(f"data.cache_gb={gigabytes:g}: must be above 0")
        self.folder = Path(folder) if folder is not None else default_folder()
        self.limit = int(gigabytes * 1e9)
        with writing(self.folder, "choose another data.cache"):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._process = -1
        self._pool: ThreadPool
        self._lock: threading.Lock
        self._fetching: dict[str, Future[Path]]
        self._wanted: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Return what a loader process gets: threads and what they fetch stay behind."""
        kept = ("folder", "limit", "_wanted")
        return {name: self.__dict__[name] for name in kept} | {"_process": -1}

    def want(self, archives: Sequence[str]) -> None:
        """Begin to fetch archives, in this order; those on a disk already are left alone."""
        self._begin()
        self._wanted = [archive for archive in archives if isinstance(archive, Remote)]
        for archive in self._wanted:
            self._start(archive)

    def local(self, path: str) -> str:
        """Return where to read a member: in the copy of its archive, if that is wanted.

        Args:
            path: of an utterance. That of no remote archive comes back as it is.

        Raises:
            UserError: the archive cannot be fetched.
        """
        member = members.parse(path) if isinstance(path, Remote) else None
        if member is None or member.archive not in self._wanted:
            return path
        copy = self._start(member.archive).result()
        with contextlib.suppress(OSError):
            os.utime(copy)  # used now
        if not copy.exists():  # another process needed the room
            with self._lock:
                self._fetching.pop(member.archive, None)
            copy = self._start(member.archive).result()
        return f"{copy}:{member.offset}:{member.size}{member.extension}"

    def read(
        self, path: str, sample_rate: int, start: float, stop: float, channel: int | None = None
    ) -> NDArray[np.float32]:
        """Read a span of an utterance as `audio.reading.read` does, from a copy if there is one."""
        copy = self.local(path)
        try:
            return reading.read(copy, sample_rate, start, stop, channel)
        except UserError:
            if copy == path or Path(copy.partition(".tar:")[0] + ".tar").exists():
                raise
            return reading.read(
                path, sample_rate, start, stop, channel
            )  # the copy has just been removed

    def _begin(self) -> None:
        """Make the threads of this process."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._pool = ThreadPool(_SHARDS_AT_ONCE, "shard")
            self._lock = threading.Lock()
            self._fetching = {}

    def _start(self, archive: str) -> Future[Path]:
        with self._lock:
            found = self._fetching.get(archive)
            if found is None or (found.done() and found.exception() is not None):
                found = self._pool.submit(self._fetch, Remote(archive))
                self._fetching[archive] = found
            for other in list(self._fetching):
                if other not in self._wanted and self._fetching[other].done():
                    del self._fetching[other]
            return found

    def _fetch(self, archive: Remote) -> Path:
        """Return the copy of an archive, fetched here or by another process."""
        size = members.archive_size(archive)
        if size > self.limit:
            raise UserError(
                f"{archive}: {size / 1e9:.3g} GB, more than data.cache_gb={self.limit / 1e9:g}; raise"
                " it"
            )
        name = hashlib.blake2b(f"{archive}\0{size}".encode(), digest_size=16).hexdigest()
        copy = self.folder / f"{name}.tar"
        lock = self.folder / f".{name}.lock"
        with lock.open("a") as file:
            while not _is_ours(file.fileno()):
                if copy.exists():
                    return copy
                time.sleep(_POLL)
            if not copy.exists():
                with writing(self.folder, "choose another data.cache"):
                    self._download(archive, size, copy)
            lock.unlink(missing_ok=True)
        return copy

    def _download(self, archive: Remote, size: int, copy: Path) -> None:
        # In a folder of several machines, two processes may have one number.
        name = f".{copy.stem}.{uuid.uuid4().hex[:8]}.{os.getpid()}.partial.tar"
        temporary = copy.with_name(name)
        starts = range(0, size, PART_BYTES)

        def fetch(start: int) -> None:
            count = min(PART_BYTES, size - start)
            data = members.Member(archive, 0, size, ".tar").fetch(start, count)
            os.pwrite(target.fileno(), data, start)

        try:
            with self._reserve(temporary, size) as target, ThreadPool(REQUESTS) as pool:
                for _ in pool.map(fetch, starts):
                    pass
            os.replace(temporary, copy)
        finally:
            temporary.unlink(missing_ok=True)

    def _reserve(self, path: Path, size: int) -> BinaryIO:
        """Make a file of `size` bytes, for which there is room then; wait for others if need be."""
        while True:
            with self._alone():
                if self._make_room(size):
                    # Made anew: in a folder that others may write, too, the name could be a link.
                    target = path.open("xb")
                    target.truncate(size)
                    return target
            time.sleep(_POLL)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the folder, in which room is made and taken; no thread shares it."""
        if fcntl is None:
            yield
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, size: int) -> bool:
        """Remove the copies that were used longest ago until there is room for `size` bytes more.

        Returns:
            False if what is being fetched now takes too much of it.
        """
        copies = []
        being_fetched = 0
        for entry in os.scandir(self.folder):
            if not entry.name.endswith(".tar"):
                continue
            with contextlib.suppress(FileNotFoundError):
                about = entry.stat(follow_symlinks=False)
                writer = writer_of(entry.name)
                if writer is None:
                    copies.append((about.st_mtime, about.st_size, entry.path))
                elif is_dead(writer) and time.time() - about.st_mtime > _LEFT_SECONDS:
                    os.unlink(entry.path)  # what a killed process has left
                else:
                    being_fetched += about.st_size
        held = being_fetched + sum(copy_size for _, copy_size, _ in copies)
        if being_fetched + size > self.limit:
            return False
        for _, freed, path in sorted(copies):
            if held + size <= self.limit:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            held -= freed
        return True


def _is_ours(descriptor: int) -> bool:
    """Try to take the lock of a file; True if it is taken, or there are no locks here."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
