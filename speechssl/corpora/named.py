"""Files whose names hold the labels, and comparisons with what is published of a corpus."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from speechssl.audio.walk import audio_files
from speechssl.corpora.listing import check_folder
from speechssl.corpora.partial import refuse_unless_partial
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError
from speechssl.text import printable


class NamedFile(NamedTuple):
    """A file whose name fits the pattern of a corpus."""

    path: str
    """Below the root of the corpus."""

    fields: tuple[str, ...]
    """The groups of the pattern, in their order."""


def named_files(root: Path, pattern: str, example: str) -> dict[str, NamedFile]:
    """Return the audio files below `root` whose whole name fits a pattern, by that name.

    Copies of a name in other folders, which some releases have, count once; of two
    formats, wav is taken.

    Args:
        root: the folder of the corpus.
        pattern: regular expression of a name without its ending.
        example: a name that fits, for the message.

    Raises:
        UserError: `root` is not a directory, or no name fits.
    """
    check_folder(root)
    expression = re.compile(pattern)
    files: dict[str, NamedFile] = {}
    for path in sorted(audio_files(root), key=wav_first):
        stem = PurePath(path).stem
        match = expression.fullmatch(stem)
        if match and stem not in files:
            files[stem] = NamedFile(path, match.groups())
    if not files:
        raise UserError(f"{root}: no file is named like {example}; give the folder of the corpus")
    return files


def read_columns(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a corpus' CSV file: its columns of these names, as they stand there.

    Raises:
        UserError: it cannot be read, or lacks one of the columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            for name in columns:
                if name not in (table.fieldnames or ()):
                    raise UserError(f"{path}: has no column {name}; take the release's own file")
            rows = []
            for row in table:
                rows.append({name: (row[name] or "").strip() for name in columns})
            return rows
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read ({reason}); give the folder of a release"
        ) from None


def wav_first(path: str) -> tuple[bool, str]:
    """Sort key of paths: those of wav files come first, which are read faster."""
    return PurePath(path).suffix.lower() != ".wav", path


def compare_counts(
    corpus: str, manifest: Manifest, published: Mapping[str, Mapping[str, int]]
) -> None:
    """Print a line on standard error for each label whose counts are not the published ones.

    Args:
        corpus: its name.
        manifest: what was found.
        published: label ("spk" for the speaker) -> value -> utterances.
    """
    for label, expected in published.items():
        counts = Counter(manifest.labels.get(label, {}).values())
        different = []
        for value, number in expected.items():
            if counts[value] != number:
                different.append(f"{value} {counts[value]} of {number}")
        if different:
            print(f"{corpus}: not as published, {label}: {_shortened(different)}", file=sys.stderr)


def compare_count(folder: Path, count: int, corpus: str, published: int, partial: bool) -> None:
    """Compare the number of files in a folder with the published one.

    Args:
        folder: where they are.
        count: how many there are.
        corpus: its name.
        published: how many the corpus has there.
        partial: print a difference on standard error, and go on.

    Raises:
        UserError: the numbers differ, unless `partial`.
    """
    if count == published:
        return
    difference = f"{folder}: {count:,} files, where {corpus} has {published:,}"
    remedy = "unpack it again, or go on with what is there"
    refuse_unless_partial(difference, remedy=remedy, partial=partial)


def report_missing(corpus: str, listed: Iterable[str], found: Iterable[str], where: str) -> None:
    """Print on standard error how many of the listed files were not found.

    Args:
        corpus: its name.
        listed: names of files.
        found: names of the files that are there.
        where: what lists them.
    """
    listed = list(listed)
    found = set(found)
    missing = [name for name in listed if name not in found]
    if missing:
        print(
            f"{corpus}: {len(missing)} of {len(listed)} files of {where} are missing:"
            f" {_shortened(missing)}",
            file=sys.stderr,
        )


def _shortened(items: list[str]) -> str:
    """Return the first ten items, and how many more there are."""
    text = ", ".join(items[:10])
    if len(items) > 10:
        text += f" and {len(items) - 10} more"
    return printable(text)  # names of files and lists that others made
