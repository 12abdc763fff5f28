"""Lists of audio files: Kaldi's wav.scp, and utterances.tsv beside a folder of audio.

These are the package's only readers of both, below everything that reads data or noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from speechssl.audio import members
from speechssl.audio.pipes import Pipe
from speechssl.audio.remotes import Remote, Remotes, is_address, refusal
from speechssl.errors import UserError
from speechssl.regular import is_special, read_text

OnBadEntry = Callable[[str, str], None]
"""Callback for an unusable entry: (id, message). The message says where, what, and what to do."""

UTTERANCES_TABLE = "utterances.tsv"
"""Name of the table that may stand in a folder of audio."""


_REMEDY = "make it a readable text file"

MAX_ID = 1000
"""Longest id, in characters: arrays of ids have room for the longest one in every row."""


def refuse(_id: str, message: str) -> None:
    """Raise UserError: the `OnBadEntry` for files of which every line must be good."""
    raise UserError(message)


def read_table(path: Path, on_bad: OnBadEntry) -> Iterator[tuple[int, str, str]]:
    """Read the lines of a Kaldi text file: a name, blanks or tabs, and the rest.

    Args:
        path: the file.
        on_bad: called for a line without a rest, or with an id of more than `MAX_ID` characters.

    Yields:
        Line number (from 1), name, and the rest of the line.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    text = read_text(path, _REMEDY, "a Kaldi directory needs it")
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \t\r")
        name, _, rest = line.partition(" ")
        if "\t" in name:
            name, _, rest = line.partition("\t")
        rest = rest.lstrip(" \t")
        if len(name) > MAX_ID:
            on_bad(
                f"{name[:40]}...", f"{path}:{number}: the id has {len(name)} characters; shorten it"
            )
        elif rest:
            yield number, name, rest
        elif name:
            on_bad(
                name,
                f"{path}:{number}: {name!r} has no value behind it; complete or remove the line",
            )


def read_wav_scp(
    path: Path,
    on_bad: OnBadEntry,
    *,
    allow_pipes: bool,
    check_files: bool,
    remotes: Remotes | None = None,
) -> dict[str, str]:
    """Read wav.scp: recording id -> path, in the order of the file.

    Args:
        path: the file.
        on_bad: called for a line without a path, an id that occurs twice, a missing file, a shell
            pipe and an address that are not allowed.
        allow_pipes: accept entries that are shell commands; they become `Pipe`.
        check_files: look whether each file exists.
        remotes: addresses that may be read; they become `Remote`. None: no address may.

    Raises:
        UserError: wav.scp is missing or cannot be read.
    """
    remotes = remotes or Remotes()
    recordings: dict[str, str] = {}
    missing_files = MissingFiles()
    for number, name, value in read_table(path, on_bad):
        where = f"{path}:{number}: {name!r}"
        place = remotes.permit(value)
        if name in recordings:
            on_bad(name, f"{where} is there twice; remove one line")
        elif value.endswith("|"):
            if allow_pipes:
                recordings[name] = Pipe(value)
            else:
                on_bad(name, f"{where} is a shell pipe; refused unless --allow-pipes is given")
        elif is_address(value) and not isinstance(place, Remote):
            on_bad(name, f"{where}: {value} {refusal(value)}")
        elif check_files and (reason := missing_files.reason(place)):
            on_bad(name, f"{where}: {reason}")
        else:
            recordings[name] = place
    return recordings


class MissingFiles:
    """Tells which audio files are missing; the size of each archive is looked up once.

    Files behind addresses are not asked for: a million requests would take half a day. What is not
    there is found where it is read.
    """

    def __init__(self) -> None:
        self._archives: dict[str, int | str] = {}  # the size of each, or why it cannot be read

    def reason(self, path: str) -> str:
        """Return why `path` (or the member that it is the address of) is missing, or ""."""
        member = members.parse(path)
        if member is None and isinstance(path, Remote):
            return ""
        if member is None:
            if not os.path.exists(path):
                return f"no such file: {path}; correct the path"
            return f"not a regular file: {path}; give a file" if is_special(path) else ""
        archive = member.archive
        if archive not in self._archives:
            try:
                self._archives[archive] = members.archive_size(archive)
            except UserError as error:
                self._archives[archive] = str(error)
        size = self._archives[archive]
        if isinstance(size, str):
            return size
        if member.offset + member.size <= size:
            return ""
        return f"{archive}: truncated: it ends at byte {size}; copy or write it again"


def read_utterances_table(path: Path) -> list[dict[str, str]]:
    """Read utterances.tsv: a header line, then a line an utterance, columns separated by tabs.

    Returns:
        Column -> value of each line, in order. There is always a column ``path``.

    Raises:
        UserError: the file cannot be read, has no column ``path``, or a line has more or fewer
            columns than the header.
    """
    lines = read_text(path, _REMEDY).removeprefix("\ufeff").split("\n")
    header = [name.strip() for name in lines[0].rstrip("\r").split("\t")]
    if "path" not in header:
        raise UserError(
            f"{path}:1: no column `path`; begin with a header line, columns separated by tabs"
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        values = [value.strip() for value in line.rstrip("\r").split("\t")]
        if len(values) != len(header):
            raise UserError(
                f"{path}:{number}: {len(values)} columns, but the header has {len(header)}; correct"
                " the line"
            )
        rows.append(dict(zip(header, values, strict=True)))
    return rows
