"""Names on the Hugging Face hub, and their download."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import UserError

PREFIX = "hub:"

KNOWN_OWNERS = ("speechbrain",)
"""Whose names are taken for names on the hub without the prefix, where no such folder exists."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_hub_name(source: str | Path) -> bool:
    """True for `hub:owner/name`, and for `owner/name` of a known owner that is no path here."""
    text = str(source)
    if text.startswith(PREFIX):
        return True
    owner, _, name = text.partition("/")
    return owner in KNOWN_OWNERS and bool(name) and "/" not in name and not Path(text).exists()


def check_name(name: str) -> str:
    """Return `owner/name`, without the prefix.

    Raises:
        UserError: it is no name of a repository.
    """
    name = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise UserError(f"hub: {name[:100]!r} is no name; give hub:owner/name")
    return name


def snapshot(source: str, patterns: Sequence[str]) -> Path:
    """Download the files of a model, unless they are in the cache of huggingface_hub.

    Args:
        source: `hub:owner/name` or `owner/name`, with `@revision` behind it if wanted.
        patterns: names of the files that are wanted; others stay where they are.

    Raises:
        UserError: no such name, no network, or huggingface_hub is not installed.
    """
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    name = check_name(name)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError("hub: needs huggingface_hub; pip install 'speechssl[hub]'") from None
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=list(patterns))
    except Exception as error:  # its own, those of its HTTP library, and OSError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hub: {name} cannot be downloaded ({type(error).__name__}: {reason[:150]}); check the"
            " name and the network, or give a folder that holds its files"
        ) from error
    return Path(folder)
