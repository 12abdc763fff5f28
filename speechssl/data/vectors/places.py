"""A folder of files on a disk of this machine, or behind an address (`s3://bucket/embeddings`)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO, Any, NamedTuple

from speechssl.audio.remotes import STORES, is_address
from speechssl.errors import UserError, writing
from speechssl.files import atomic_write
from speechssl.regular import refuse_special_file

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


class Entry(NamedTuple):
    """A file of a folder.

    Attributes:
        name: within the folder.
        size: bytes.
    """

    name: str
    size: int


class Place:
    """A folder, which the user named: nothing that was read from a file leads to a `Place`.

    Args:
        name: path, or address of one of `audio.remotes.STORES`.

    Raises:
        UserError: an address of another kind, or one that the installed file systems cannot open.
    """

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        self._store: Any = None
        if is_address(self.name):
            self.name = self.name.rstrip("/")
            self._store, self._path = _open_store(self.name)
        else:
            self._folder = Path(name)

    @property
    def is_local(self) -> bool:
        """True for a folder of this machine."""
        return self._store is None

    def files(self) -> list[Entry]:
        """Return the files directly in the folder, by name; an empty list if it does not exist."""
        if self.is_local:
            return _local_files(self._folder)
        try:
            self._store.invalidate_cache()
            found = self._store.ls(self._path, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:  # each of fsspec's file systems has errors of its own
            raise _failed(self.name, "cannot be listed", error) from error
        entries = []
        for about in found:
            if about["type"] == "file":
                entries.append(Entry(about["name"].rpartition("/")[2], int(about["size"] or 0)))
        return sorted(entries)

    def open(self, name: str) -> IO[bytes]:
        """Open a file of the folder for reading, at any position.

        Raises:
            UserError: it is no regular file.
            OSError: it cannot be read.
        """
        if self.is_local:
            path = self._folder / name
            refuse_special_file(path)
            return path.open("rb")
        opened: IO[bytes] = self._store.open(f"{self._path}/{name}", "rb")
        return opened

    def read(self, name: str, most: int = 1 << 20) -> bytes | None:
        """Return the bytes of a small file, at most `most` of them; None if it is not there.

        Raises:
            UserError: it cannot be read.
        """
        try:
            with self.open(name) as file:
                return file.read(most)
        except FileNotFoundError:
            return None
        except UserError:
            raise
        except Exception as error:
            raise _failed(f"{self.name}/{name}", "cannot be read", error) from error

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file, whole or not at all; the folder is made if need be.

        Raises:
            UserError: it cannot be written.
        """
        if self.is_local:
            with writing(self._folder / name):
                self._folder.mkdir(parents=True, exist_ok=True)
                with atomic_write(self._folder / name) as temporary:
                    temporary.write_bytes(data)
            return
        try:  # an object appears when its upload is complete
            self._store.pipe_file(f"{self._path}/{name}", bytes(data))
        except Exception as error:
            raise _failed(f"{self.name}/{name}", "cannot be written", error) from error

    def remove(self, name: str) -> None:
        """Remove a file if it is there.

        Raises:
            UserError: it cannot be removed.
        """
        if self.is_local:
            with writing(self._folder / name):
                (self._folder / name).unlink(missing_ok=True)
            return
        try:
            self._store.rm_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return
        except Exception as error:
            raise _failed(f"{self.name}/{name}", "cannot be removed", error) from error


def _local_files(folder: Path) -> list[Entry]:
    try:
        with os.scandir(folder) as found:
            files = [entry for entry in found if entry.is_file()]
            return sorted(Entry(entry.name, entry.stat().st_size) for entry in files)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from None


def _open_store(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path there."""
    scheme = _SCHEME.match(address)
    if scheme is not None and scheme[1] == "file":
        raise UserError(
            f"{address}: is on this machine; give the path, {address.partition('://')[2]}"
        )
    if scheme is None or scheme[1] not in STORES or "::" in address:
        raise UserError(
            f"{address}: not the address of a store; known protocols: {' '.join(sorted(STORES))}"
        )
    try:
        import fsspec

        store, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        detail = " ".join(str(error).split())
        raise UserError(
            f"{address}: cannot be opened ({detail}); pip install 'speechssl[scale]' and the package"
            " that is named"
        ) from None
    except Exception as error:
        raise _failed(address, "cannot be opened", error) from error
    return store, str(path).rstrip("/")


def _failed(what: str, how: str, error: Exception) -> UserError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{what}: {how} ({detail}); check the address and who may use it")
