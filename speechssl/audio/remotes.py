"""Addresses of remote stores, and which of them the user allowed.

A data directory may be somebody else's. An address in it (`s3://bucket/shard-000001.tar:512:9.flac`)
would make this machine ask a host of that person's choice, and some of fsspec's protocols run code
that the address names. So an address is opened only if it begins with a prefix that the user named
(`--remote s3://bucket/`, `data.remote`), and only with a protocol of `STORES`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from speechssl.errors import UserError

STORES = frozenset(
    {
        "abfs", "abfss", "az", "ftp", "gcs", "gs", "hdfs", "hf", "http", "https", "oci", "oss",
        "r2", "s3", "s3a", "sftp", "ssh", "webhdfs",
    }
)  # fmt: skip
"""Protocols that fetch bytes from one store, and do nothing else. Protocols of fsspec that read this
machine, wrap another address, build something or run code are left out on purpose: file, memory,
reference, zip, tar, simplecache, github, jupyter, dask and the like."""

_WEB = ("http://", "https://")
_WITHOUT_HOST = ("hdfs", "webhdfs")
"""Protocols whose addresses may leave the host to the machine's configuration."""

_SCHEME = re.compile(r"([^:/\s]+)://")


class Remote(str):
    """An address that may be opened, because it begins with a prefix that the user named.

    The type carries the permission, as `pipes.Pipe` does for shell commands: only readers that were
    given `Remotes`, and what the user typed, make one. A plain string with `://` is refused.
    """

    __slots__ = ()


class Remotes:
    """The prefixes of addresses that may be read.

    A prefix that does not end with a slash matches whole path components only: `s3://bucket` allows
    `s3://bucket/a.tar`, not `s3://bucket-of-another/a.tar`.

    An address without a host (`s3:///bucket/a.tar`) is never allowed: one library takes the first
    folder for the host, another refuses it, and a prefix could not say what it stands for. HDFS
    alone has such addresses: the host is that of this machine's configuration.

    Args:
        prefixes: such as `s3://bucket/`, `https://host/data`, or `s3://` for any bucket.

    Raises:
        UserError: a prefix does not begin with one of `STORES` and `://`, has no host, or is a chain
            (`::`).
    """

    def __init__(self, prefixes: Sequence[str] = ()) -> None:
        for prefix in prefixes:
            _check_prefix(prefix)
        self.prefixes = tuple(prefixes)

    def allow(self, address: str) -> bool:
        """Return True if an address begins with one of the prefixes and cannot lead elsewhere."""
        return any(_is_below(address, prefix) for prefix in self.prefixes)

    def permit(self, address: str) -> str:
        """Return an address as a `Remote` if it is allowed, and otherwise the string as it is."""
        return Remote(address) if self.allow(address) else address


def is_address(name: str) -> bool:
    """Return True if a name is an address, not a path of this machine."""
    return "://" in name


def refuse_half_address(name: str) -> None:
    """Raise UserError if the name of an output was to be an address: `s3:/bucket/x`, `s3:bucket/x`.

    Taken for a path, it would become a folder `s3:` on this machine.
    """
    half = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(?!//)/*(.*)", name)
    if half is not None and half[1] in STORES:
        raise UserError(
            f"{name}: neither an address nor a plain path; write {half[1]}://{half[2]}, or ./{name}"
            " for a folder here"
        )


def refusal(address: str) -> str:
    """Return the end of a message about an address that was not allowed: what it is, what to do."""
    scheme = _SCHEME.match(address)
    if scheme is None or scheme[1] not in STORES or "::" in address:
        return (
            "is an address of a kind that is never read from a list; copy the file, give its path"
        )
    host = re.match(r"[^:/\s]+://[^/\s]*", address)
    store = "" if host is None else host[0]
    return f"is an address; it is read if you name its store: --remote {store}/ (data.remote)"


def _check_prefix(prefix: str) -> None:
    scheme = _SCHEME.match(prefix)
    if scheme is None:
        raise UserError(
            f"--remote {prefix!r} does not name a store; give its address, such as s3://bucket/"
        )
    if scheme[1] not in STORES:
        raise UserError(
            f"--remote {prefix!r}: {scheme[1]} is not a protocol of a store; known: "
            + " ".join(sorted(STORES))
        )
    if _has_no_host(prefix):
        raise UserError(
            f"--remote {prefix!r}: names no host or bucket after {scheme[1]}://; give one"
        )
    if "::" in prefix or _leaves_folder(prefix):
        raise UserError(f"--remote {prefix!r}: must be one plain address without `::` and `..`")


def _is_below(address: str, prefix: str) -> bool:
    """Return True if an address lies in the store, and below the folder, that a prefix names."""
    if not address.startswith(prefix) or "::" in address or _leaves_folder(address):
        return False
    if _has_no_host(address):
        return False
    rest = address[len(prefix) :]
    if rest and not prefix.endswith("/") and not rest.startswith("/"):
        return False
    host = address.split("/", 3)[2]
    if prefix.endswith("://") and "@" in host:
        return False  # a password or another host that the prefix does not name
    is_web = address.startswith(_WEB)
    return is_web or not re.search(r"[?#]", rest)  # options of a file system, except on the web


def _has_no_host(address: str) -> bool:
    """Return True for `s3:///a` and `https://@/a`, not for `s3://` (any host) nor for HDFS."""
    scheme, _, rest = address.partition("://")
    if not rest or scheme in _WITHOUT_HOST:
        return False
    host = re.split(r"[/?#]", rest)[0].rpartition("@")[2]
    return not host.partition(":")[0]


def _leaves_folder(address: str) -> bool:
    """Return True for what a server or library could take for another folder or host."""
    plain = unquote(unquote(address))
    if "\\" in plain or any(ord(letter) < 32 or ord(letter) == 127 for letter in plain):
        return True
    components = re.split(r"[/?#]", plain)
    return ".." in components or "." in components
