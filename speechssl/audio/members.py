"""Files inside tar archives, by address: `shards/shard-000001.tar:1536:96044.flac` is the 96,044
bytes of a FLAC file from byte 1,536 of that archive on.

The archive is uncompressed, and a path or any URL that fsspec knows
(`s3://bucket/shard-000001.tar`). Only the member's bytes are read, or of a large member only the
part asked for.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from typing import Any

from speechssl.errors import UserError

_ADDRESS = re.compile(r"(.+\.tar):(\d+):(\d+)(\.\w+)", re.DOTALL)
_WHOLE = 4 << 20  # bytes up to which a member is read in one go
_BLOCK = 1 << 18  # bytes read at a time of a larger one


@dataclass(frozen=True, slots=True)
class Member:
    """`size` bytes of `archive` from `offset` on; `extension` (".flac") says what they are."""

    archive: str
    offset: int
    size: int
    extension: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.offset}:{self.size}{self.extension}"

    def open(self) -> io.RawIOBase | io.BytesIO:
        """The member as a file. Raises UserError if the archive is missing, unreadable, or ends too
        early.
        """
        if self.size <= _WHOLE:
            return io.BytesIO(self.fetch(0, self.size))
        return _Large(self)

    def fetch(self, first: int, count: int) -> bytes:
        """`count` bytes from byte `first` of the member on; errors as `open`."""
        begin = self.offset + first
        try:
            if "://" in self.archive:
                files, path = _file_system(self.archive)
                data = bytes(files.cat_file(path, start=begin, end=begin + count))
            else:
                with open(self.archive, "rb", buffering=0) as file:
                    data = os.pread(file.fileno(), count, begin)
        except Exception as error:  # each of fsspec's file systems has errors of its own
            raise _unreadable(self.archive, error) from error
        if len(data) < count:
            raise UserError(
                f"{self.archive}: truncated: it ends at byte {begin + len(data)}, a member at"
                f" {self.offset + self.size}; copy or write it again"
            )
        return data


def parse(name: str) -> Member | None:
    """The member that `name` is the address of; None if it is none (a path, a URL, a pipe)."""
    match = _ADDRESS.fullmatch(name) if ".tar:" in name else None
    return Member(match[1], int(match[2]), int(match[3]), match[4]) if match else None


def archive_size(archive: str) -> int:
    """Bytes of an archive, a path or a URL. Raises UserError if there is none."""
    try:
        if "://" in archive:
            files, path = _file_system(archive)
            return int(files.size(path))
        return os.path.getsize(archive)
    except Exception as error:
        raise _unreadable(archive, error) from error


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    files, path = fsspec.core.url_to_fs(url)
    return files, path


def _unreadable(archive: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, FileNotFoundError):
        return UserError(f"{archive}: no such file; check the path, or write the shards again")
    detail = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{archive}: cannot be read ({detail}); check that it can be reached")


class _Large(io.RawIOBase):
    """A member read block by block.

    libsndfile calls from C, through which no exception passes: a failed read is kept in `error` and
    looks like the end of the file.
    """

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.member, self.place = member, 0
        self.first, self.block = 0, member.fetch(0, _BLOCK)
        self.error: UserError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.member.size}[whence]
        self.place = max(0, base + offset)
        return self.place

    def readinto(self, into: Any) -> int:
        view = memoryview(into).cast("B")
        count = max(0, min(len(view), self.member.size - self.place))
        if not self.first <= self.place <= self.place + count <= self.first + len(self.block):
            try:
                most = min(max(count, _BLOCK), self.member.size - self.place)
                self.block = self.member.fetch(self.place, most)
                self.first = self.place
            except UserError as error:
                self.error = error
                return 0
        begin = self.place - self.first
        view[:count] = self.block[begin : begin + count]
        self.place += count
        return count
