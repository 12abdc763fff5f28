"""What corpora share whose labels are in their files' names: one file a name, and published
counts.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from speechssl.corpora.listing import audio_files
from speechssl.data.manifest import Manifest
from speechssl.errors import UserError


def named_files(root: Path, pattern: str, example: str) -> dict[str, tuple[str, re.Match[str]]]:
    """Name (without its ending) -> path below ``root`` and match, of the files whose whole name
    fits.

    Copies of a name in other folders (releases have them) count once; of two formats, wav is taken.

    Raises:
        UserError: no name fits; the message shows an ``example`` of one that would.
    """
    expression, files = re.compile(pattern), {}
    for path in sorted(audio_files(root), key=lambda p: (PurePath(p).suffix.lower() != ".wav", p)):
        stem = PurePath(path).stem
        match = expression.fullmatch(stem)
        if match and stem not in files:
            files[stem] = (path, match)
    if not files:
        raise UserError(f"{root}: no file is named like {example}; give the corpus' own folder")
    return files


def compare_counts(
    corpus: str, manifest: Manifest, published: Mapping[str, Mapping[str, int]]
) -> None:
    """Say on standard error where the labels of a directory are fewer or more than ``published``.

    ``published``: label ("spk" for the speaker) -> value -> utterances.
    """
    for label, expected in published.items():
        counts = Counter(manifest.labels.get(label, {}).values())
        differ = [
            f"{value} {counts[value]} of {number}"
            for value, number in expected.items()
            if counts[value] != number
        ]
        if differ:
            print(f"{corpus}: not as published, {label}: {_short(differ)}", file=sys.stderr)


def missing_files(corpus: str, names: Iterable[str], there: Iterable[str], where: str) -> None:
    """Say on standard error how many of ``names``, which ``where`` lists, are not ``there``."""
    wanted, found = list(names), set(there)
    absent = [name for name in wanted if name not in found]
    if absent:
        share = f"{len(absent)} of {len(wanted)}"
        print(f"{corpus}: {share} files of {where} are missing: {_short(absent)}", file=sys.stderr)


def _short(items: list[str]) -> str:
    return ", ".join(items[:10]) + (f" and {len(items) - 10} more" if len(items) > 10 else "")
