"""Files inside tar archives, named by an address.

`shards/shard-000001.tar:1536:96044.flac` is a FLAC file: the 96,044 bytes from byte 1,536 of that
archive on. The archive is not compressed; it is a path, or an address in a store that the user
named (`s3://bucket/shard-000001.tar`, a `remotes.Remote`), which fsspec reads. Only the member's
bytes are read, and of a large member only the part that is asked for.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from typing import Any

from speechssl.audio.remotes import Remote, is_address, refusal
from speechssl.errors import UserError, refuse_without_descriptors
from speechssl.regular import refuse_special_file

_ADDRESS = re.compile(r"(.+\.tar):([0-9]{1,18}):([0-9]{1,18})(\.\w+)", re.DOTALL)
_WHOLE = 4 << 20  # bytes up to which a member is read in one go
_BLOCK = 1 << 18  # bytes read at a time of a larger one


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside an archive; `str(member)` is its address.

    Attributes:
        archive: path of the archive, or its address as a `Remote`.
        offset: its first byte there.
        size: number of bytes.
        extension: what they are (".flac").
    """

    archive: str
    offset: int
    size: int
    extension: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.offset}:{self.size}{self.extension}"

    def open(self) -> io.RawIOBase | io.BytesIO:
        """Return the member as a file object.

        Raises:
            UserError: the archive is missing, cannot be read, ends too early, or is an address
                that was not allowed.
        """
        if self.size <= _WHOLE:
            return io.BytesIO(self.fetch(0, self.size))
        return LargeMember(self)

    def fetch(self, first: int, count: int) -> bytes:
        """Return `count` bytes from byte `first` of the member on; errors as `open`."""
        begin = self.offset + first
        try:
            if is_address(self.archive):
                files, path = _file_system(self.archive)
                data = bytes(files.cat_file(path, start=begin, end=begin + count))
            else:
                refuse_special_file(self.archive)
                with open(self.archive, "rb", buffering=0) as file:
                    data = os.pread(file.fileno(), count, begin)
        except Exception as error:  # each of fsspec's file systems has errors of its own
            refuse_without_descriptors(error)
            raise _unreadable(self.archive, error) from error
        if len(data) < count:
            raise UserError(
                f"{self.archive}: truncated: it ends at byte {begin + len(data)}, a member at"
                f" {self.offset + self.size}; copy or write it again"
            )
        if len(data) > count:
            raise UserError(
                f"{self.archive}: its server sends more than the bytes that were asked for (no ranges);"
                " use another server"
            )
        return data


def parse(name: str) -> Member | None:
    """Return the member whose address is `name`; None if it is a path or a pipe.

    The archive of a `Remote` is a `Remote`.
    """
    if ".tar:" not in name:
        return None
    match = _ADDRESS.fullmatch(name)
    if match is None:
        return None
    archive = Remote(match[1]) if isinstance(name, Remote) else match[1]
    return Member(archive, offset=int(match[2]), size=int(match[3]), extension=match[4])


def open_whole(address: Remote) -> io.RawIOBase | io.BytesIO:
    """Return a file behind an address as a file object; one of at most 4 MiB takes one request.

    Raises:
        UserError: it is missing or cannot be read, or the server of a larger one sends no ranges.
    """
    try:
        files, path = _file_system(address)
        begin = bytes(files.cat_file(path, start=0, end=_WHOLE + 1))
    except Exception as error:
        refuse_without_descriptors(error)
        raise _unreadable(address, error) from error
    if len(begin) <= _WHOLE:
        return io.BytesIO(begin)
    return LargeMember(Member(address, 0, archive_size(address), ""))


def archive_size(archive: str) -> int:
    """Return the bytes of an archive, a path or a `Remote`.

    Raises:
        UserError: it is missing or cannot be reached.
    """
    try:
        if is_address(archive):
            files, path = _file_system(archive)
            return int(files.size(path))
        refuse_special_file(archive)
        return os.path.getsize(archive)
    except Exception as error:
        raise _unreadable(archive, error) from error


def _file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path there; the only way to a store."""
    if not isinstance(address, Remote):
        raise UserError(f"{address}: {refusal(address)}")
    import fsspec

    options: dict[str, Any] = {}
    if address.startswith("http"):
        options["allow_redirects"] = False  # the host that the user named, and no other
        options["client_kwargs"] = {"raise_for_status": _refuse_redirect}
    files, path = fsspec.core.url_to_fs(address, **options)
    return files, path


async def _refuse_redirect(response: Any) -> None:
    """Raise UserError if an answer of aiohttp sends on to another address: its body is no audio."""
    if response.status in (301, 302, 303, 307, 308):
        raise UserError(
            f"{response.url}: its server sends on to another address, which is not followed; name the"
            " store that holds it"
        )


def _unreadable(archive: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error.__cause__, UserError):  # fsspec says that there is no such file
        return error.__cause__
    if isinstance(error, FileNotFoundError):
        return UserError(f"{archive}: no such file; check the path, or write it again")
    detail = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{archive}: cannot be read ({detail}); check that it can be reached")


class LargeMember(io.RawIOBase):
    """A member as a file object that is read block by block.

    libsndfile calls from C, through which no exception passes: a failed read is kept in `error` and
    looks like the end of the file.
    """

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.member = member
        self.position = 0
        self.error: UserError | None = None
        self._block = member.fetch(0, _BLOCK)
        self._block_start = 0  # where in the member the block begins

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, bytes from the member's begin."""
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        if whence == os.SEEK_CUR:
            offset += self.position
        elif whence == os.SEEK_END:
            offset += self.member.size
        self.position = max(0, offset)
        return self.position

    def readinto(self, into: Any) -> int:
        """Fill a buffer and return how many bytes were read; 0 at the end or after an error."""
        view = memoryview(into).cast("B")
        left = max(0, self.member.size - self.position)
        count = min(len(view), left)
        if not count:
            return 0
        if not self._holds(count):
            try:
                self._block = self.member.fetch(self.position, min(max(count, _BLOCK), left))
                self._block_start = self.position
            except UserError as error:
                self.error = error
                return 0
        begin = self.position - self._block_start
        view[:count] = self._block[begin : begin + count]
        self.position += count
        return count

    def _holds(self, count: int) -> bool:
        """Return True if the block holds the next `count` bytes."""
        block_stop = self._block_start + len(self._block)
        return self._block_start <= self.position and self.position + count <= block_stop
