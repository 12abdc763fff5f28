"""What lies in a folder of audio: its files, or the rows of its `utterances.tsv`, and what paths
tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.audio import walk
from speechssl.audio.reading import EXTENSIONS
from speechssl.audio.tables import UTTERANCES_TABLE, read_utterances_table
from speechssl.data.kaldi import NOT_LABELS
from speechssl.errors import UserError

_NO_LABELS = frozenset({"path", "utt", "seconds"})  # columns that are no labels


@dataclass(frozen=True, slots=True)
class Found:
    """A file: its path below the root, and its labels ("speaker" included)."""

    path: str
    labels: dict[str, str] = field(default_factory=dict)


def listing(root: Path) -> list[Found]:
    """The rows of ROOT/utterances.tsv if it exists, or else every audio file below ROOT, sorted by
    path.

    Names that begin with a dot are left out, and links to directories are followed, once each.
    """
    _check_folder(root)
    if not (root / UTTERANCES_TABLE).exists():
        return [Found(path) for path in audio_files(root)]
    found = _read_table(root / UTTERANCES_TABLE)
    if not found:
        raise UserError(f"{root}: no audio in it; {UTTERANCES_TABLE} has no rows")
    return sorted(found, key=lambda item: item.path)


def audio_files(root: Path) -> list[str]:
    """Paths, from ROOT, of every audio file below it, sorted; UserError if there is none."""
    _check_folder(root)
    found = sorted(walk.audio_files(root))
    if not found:
        kinds = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(f"{root}: no audio in it; files that end in {kinds} are looked for")
    return found


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such directory"
        raise UserError(f"{root}: {what}; give a folder of audio")


def folder_of(root: Path, inside: tuple[str, ...], name: str) -> Path:
    """`root` or `root/name`, whichever holds one of the folders `inside`; UserError if neither
    does.
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
    """A path pattern such as `{speaker}/{session}/*.wav`, or a regular expression, as a compiled
    expression.

    In a pattern `{name}` and `*` stand for a part of one path component, `**` for anything; it must
    fit the whole path. A regular expression is searched for; its group `speaker`, or its only
    group, is the speaker.
    """
    if "{speaker}" in pattern:
        tokens = re.split(r"(\{\w+\}|\*\*/?|\*|\?)", pattern.removeprefix("./"))
        wild = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
        seen: set[str] = set()
        text = ""
        for token in tokens:
            name = token[1:-1] if re.fullmatch(r"\{\w+\}", token) else ""
            if name:
                text += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
                seen.add(name)
            else:
                text += wild.get(token, re.escape(token))
        source = rf"\A{text}\Z"
    else:
        source = pattern
    try:
        compiled = re.compile(source)
    except re.error as error:
        raise UserError(f"--speaker {pattern!r}: {error}; mend the expression") from error
    if "speaker" not in compiled.groupindex and compiled.groups != 1:
        raise UserError(
            f"--speaker {pattern!r}: nothing in it is the speaker; write {{speaker}} in a path"
            " pattern, or one (...) group in a regular expression"
        )
    return compiled


def labels_of(path: str, expression: re.Pattern[str]) -> dict[str, str] | None:
    """Speaker and other named groups that the expression finds in a path; None if it does not
    fit.
    """
    match = expression.search(path)
    if match is None:
        return None
    named = {name: value for name, value in match.groupdict().items() if value}
    return named or ({"speaker": match.group(1)} if match.group(1) else None)


def ids_of(paths: list[str]) -> list[str]:
    """Utterance ids: the paths, white space replaced by `_`; where two would be equal, `_2` is
    added.
    """
    taken: set[str] = set()
    ids = []
    for path in paths:
        name = base = re.sub(r"\s", "_", path)
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        ids.append(name)
    return ids


def _label_name(column: str, path: Path) -> bool:
    if column in _NO_LABELS or not column:
        return False
    if not re.fullmatch(r"[\w-]+", column) or column in ("spk", *NOT_LABELS):
        raise UserError(
            f"{path}:1: column {column!r} cannot be a label's name; use letters, digits, - and _"
        )
    return True
