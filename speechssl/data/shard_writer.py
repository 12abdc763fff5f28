"""Write tar archives into a store: a local folder, or whatever fsspec opens."""

from __future__ import annotations

import json
import tarfile
from typing import Any, BinaryIO, Protocol

from speechssl.audio.members import Member
from speechssl.audio.remotes import Remote, is_address
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError


class FileSystem(Protocol):
    """What is asked of a store, a file system of fsspec."""

    def open(self, path: str, mode: str) -> Any:
        """Open a file."""
        ...

    def mv(self, path1: str, path2: str) -> None:
        """Rename a file."""
        ...

    def glob(self, path: str) -> list[str]:
        """Return the files of a pattern."""
        ...

    def rm(self, path: str) -> None:
        """Remove a file."""
        ...


class ShardWriter:
    """Writes utterances into tar archives, and begins a new one when one is full.

    A shard on a local disk has its name once it is complete; other stores show no file before it
    is closed.

    Args:
        file_system: of the store.
        folder: of the shards there.
        target: the same folder as the user writes it, the begin of each address.
        limit: bytes of a full shard.

    Attributes:
        count: shards so far.
    """

    def __init__(self, file_system: FileSystem, folder: str, target: str, limit: int) -> None:
        self.file_system = file_system
        self.folder = folder
        self.target = target.rstrip("/")
        self.limit = limit
        self.count = 0
        self._members = 0
        self._name = ""
        self._position = 0
        self._file: BinaryIO | None = None

    def add(self, utterance: Utterance, data: bytes, extension: str) -> str:
        """Write an utterance and return its address.

        Args:
            utterance: its id and seconds are written, too.
            data: bytes of its audio file.
            extension: what they are, without a dot.
        """
        if self._file is None or self._position + len(data) > self.limit:
            self.close()
            self._open()
        key = f"{self._members:08d}"
        self._members += 1
        about = {"id": utterance.id, "seconds": utterance.seconds}
        offset = self._write(f"{key}.{extension}", data)
        self._write(f"{key}.json", json.dumps(about).encode())
        address = str(Member(f"{self.target}/{self._name}", offset, len(data), f".{extension}"))
        return Remote(address) if is_address(self.target) else address

    def close(self) -> None:
        """Complete the shard that is being written."""
        if self._file is None:
            return
        file = self._file
        self._file = None
        with file:
            file.write(bytes(2 * tarfile.BLOCKSIZE))  # a tar ends with two empty blocks
        if self._path_while_writing != self._path:
            self.file_system.mv(self._path_while_writing, self._path)

    def _open(self) -> None:
        self._name = f"shard-{self.count:06d}.tar"
        self.count += 1
        self._position = 0
        self._file = self.file_system.open(self._path_while_writing, "wb")

    @property
    def _path(self) -> str:
        return f"{self.folder}/{self._name}"

    @property
    def _path_while_writing(self) -> str:
        if is_local(self.file_system):
            return f"{self.folder}/.{self._name}.partial"
        return self._path

    def _write(self, name: str, data: bytes) -> int:
        """Add a member and return the byte where its data begin."""
        assert self._file is not None
        header = tarfile.TarInfo(name)
        header.size = len(data)
        block = header.tobuf(tarfile.USTAR_FORMAT)
        padding = -len(data) % tarfile.BLOCKSIZE
        self._file.write(block + data + bytes(padding))
        offset = self._position + len(block)
        self._position = offset + len(data) + padding
        return offset


def is_local(file_system: FileSystem) -> bool:
    """True for the file system of this machine."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(file_system, LocalFileSystem)


def open_store(target: str) -> tuple[FileSystem, str]:
    """Return the file system of a store, and the folder there, which is made.

    Raises:
        UserError: the store cannot be used.
    """
    import fsspec

    try:
        file_system, folder = fsspec.core.url_to_fs(target)
        file_system.makedirs(folder, exist_ok=True)
        file_system.glob(f"{folder}/shard-*.tar")
    except Exception as error:  # each of fsspec's file systems has errors of its own
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{target}: cannot be used as a store of shards ({detail}); check the address"
        ) from error
    return file_system, folder
