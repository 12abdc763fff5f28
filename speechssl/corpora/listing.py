"""What is in a folder of audio: its files or the rows of its `utterances.tsv`, and labels in paths."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.audio.reading import EXTENSIONS
from speechssl.audio.tables import UTTERANCES_TABLE, read_utterances_table
from speechssl.audio.walk import PassedOver, audio_files
from speechssl.data.kaldi import NOT_LABELS
from speechssl.errors import UserError

_WILDCARDS = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
_NO_LABELS = frozenset({"path", "utt", "seconds"})  # columns that are no labels


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a corpus.

    Attributes:
        path: below the root of the corpus.
        labels: name -> value; "speaker" is one of them.
        channel: which channel of it, from 1; None: the mean of all.
    """

    path: str
    labels: dict[str, str] = field(default_factory=dict)
    channel: int | None = None


def listing(root: Path, passed_over: list[PassedOver] | None = None) -> list[Found]:
    """Return the rows of ROOT/utterances.tsv if it exists, else every audio file below ROOT.

    They are sorted by path. Names that begin with a dot are left out; links to
    directories are followed, once each. `passed_over` gets an entry for each file below
    ROOT that is not audio.

    Raises:
        UserError: ROOT is not a directory, or there is nothing in it.
    """
    check_folder(root)
    if not (root / UTTERANCES_TABLE).exists():
        return [Found(path) for path in all_audio(root, passed_over)]
    found = _read_table(root / UTTERANCES_TABLE)
    if not found:
        raise UserError(f"{root}: no audio in it; {UTTERANCES_TABLE} has no rows")
    return sorted(found, key=lambda item: item.path)


def all_audio(root: Path, passed_over: list[PassedOver] | None = None) -> list[str]:
    """Return the paths, from ROOT, of every audio file below it, sorted.

    Raises:
        UserError: ROOT is not a directory, or there is no audio in it.
    """
    check_folder(root)
    found = sorted(audio_files(root, passed_over))
    if not found:
        kinds = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(
            f"{root}: no audio in it; give a folder such as {root.name}/SPEAKER/FILE.wav, of any"
            f" depth, with files that end in {kinds}, or that are sound by their content"
        )
    return found


def check_folder(root: Path) -> None:
    """Raise UserError unless `root` is a directory."""
    if not root.exists():
        raise UserError(f"{root}: no such directory; give a folder of audio")
    if not root.is_dir():
        raise UserError(f"{root}: is a file; give a folder of audio")


def folder_of(root: Path, inside: tuple[str, ...], name: str) -> Path:
    """Return `root` or `root/name`, whichever holds one of the folders `inside`.

    Raises:
        UserError: neither does.
    """
    for folder in (root, root / name):
        if any((folder / part).is_dir() for part in inside):
            return folder
    raise UserError(
        f"{root}: neither it nor {name} in it holds {' or '.join(inside)}; give the folder {name}"
    )


def _read_table(path: Path) -> list[Found]:
    """Read utterances.tsv: `path` is the file, the other columns are labels."""
    found = []
    for row in read_utterances_table(path):
        labels = {name: value for name, value in row.items() if value and _label_name(name, path)}
        found.append(Found(row["path"], labels))
    return found


def path_labels(pattern: str) -> re.Pattern[str]:
    """Compile a path pattern such as `{speaker}/{session}/*.wav`, or a regular expression.

    In a path pattern `{name}` and `*` stand for a part of one path component, `?` for a
    character, and `**` for anything; it must fit the whole path. A regular expression
    is searched for; its group `speaker`, or its only group, is the speaker.

    Raises:
        UserError: the expression is wrong, or nothing in it is the speaker.
    """
    source = _as_expression(pattern) if "{speaker}" in pattern else pattern
    try:
        compiled = re.compile(source)
    except re.error as error:
        raise UserError(f"--speaker {pattern!r}: {error}; correct the expression") from error
    if "speaker" not in compiled.groupindex and compiled.groups != 1:
        raise UserError(
            f"--speaker {pattern!r}: nothing in it is the speaker; write {{speaker}} in a path"
            " pattern, or one (...) group in a regular expression"
        )
    return compiled


def _as_expression(pattern: str) -> str:
    """Return the regular expression of a path pattern; a name that comes twice must be equal."""
    seen: set[str] = set()
    expression = ""
    for token in re.split(r"(\{\w+\}|\*\*/?|\*|\?)", pattern.removeprefix("./")):
        if not re.fullmatch(r"\{\w+\}", token):
            expression += _WILDCARDS.get(token, re.escape(token))
            continue
        name = token[1:-1]
        if name in seen:
            expression += f"(?P={name})"
        else:
            expression += f"(?P<{name}>[^/]+)"
        seen.add(name)
    return rf"\A{expression}\Z"


def labels_of(path: str, expression: re.Pattern[str]) -> dict[str, str] | None:
    """Return the speaker and other named groups that an expression finds in a path.

    None if it does not fit, or finds nothing.
    """
    match = expression.search(path)
    if match is None:
        return None
    named = {name: value for name, value in match.groupdict().items() if value}
    if named:
        return named
    speaker = match.group(1)
    return {"speaker": speaker} if speaker else None


def _label_name(column: str, path: Path) -> bool:
    if column in _NO_LABELS or not column:
        return False
    if not re.fullmatch(r"[\w-]+", column) or column in ("spk", *NOT_LABELS):
        raise UserError(
            f"{path}:1: column {column!r} cannot be a label's name; use letters, digits, - and _"
        )
    return True
