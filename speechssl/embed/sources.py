"""What `speechssl embed` is given: files, folders, wav.scp files, Kaldi directories, a list on
stdin.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from speechssl.audio import reading
from speechssl.data.kaldi import read_recordings
from speechssl.data.manifest import Utterance, read_manifest
from speechssl.embed.batches import Failure
from speechssl.errors import UserError


def collect(
    inputs: Sequence[str | Path], allow_pipes: bool = False
) -> tuple[list[Utterance], list[Failure]]:
    """The utterances that `inputs` name, in the order given, and the lines of Kaldi files that are
    no use.

    | input                            | ids                                                              |
    |----------------------------------|------------------------------------------------------------------|
    | a Kaldi directory (has wav.scp)  | those of `segments`, or else of `wav.scp`                        |
    | a file that ends in `.scp`       | its own; the whole recordings                                    |
    | a folder                         | of every audio file below it, the path from there, with extension|
    | any other file                   | its name, with extension                                         |
    | `-`                              | one path a line on standard input: the paths as they are written |

    White space in a path becomes `_` in the id, as in `speechssl prepare folder`. `seconds` is 0
    where it is not known.

    Raises:
        UserError: an input does not exist, holds no audio, or two inputs share an id (both are
            named).
    """
    if not inputs:
        raise UserError(
            "embed: no input; give audio files, folders, wav.scp files, Kaldi directories, or -"
        )
    found: list[Utterance] = []
    skipped: list[Failure] = []
    for name in inputs:
        utterances, bad = _expand(str(name), allow_pipes)
        found += utterances
        skipped += [Failure(identifier, str(name), reason) for identifier, reason in bad]
    _refuse_duplicates(found)
    return found, skipped


def utterance_id(path: str) -> str:
    """`path` with `_` for white space, and without bytes that are not UTF-8."""
    return re.sub(r"\s", "_", os.fsencode(path).decode("utf-8", "replace"))


def _expand(name: str, allow_pipes: bool) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """The utterances of one input, and (id, reason) of lines that were skipped."""
    if name == "-":
        return _listed(sys.stdin), []
    path = Path(name)
    if path.is_dir():
        if (path / "wav.scp").is_file():
            manifest = read_manifest(path, labels=(), allow_pipes=allow_pipes, on_bad="skip")
            return manifest.utterances, manifest.skipped
        return list(_folder(path)), []
    if not path.exists():
        raise UserError(f"embed: {name}: no such file or folder; check the path")
    if path.suffix == ".scp":
        bad: list[tuple[str, str]] = []
        recordings = read_recordings(
            path, lambda *line: bad.append(line), allow_pipes=allow_pipes, check_files=True
        )
        return [Utterance(identifier, place) for identifier, place in recordings.items()], bad
    return [Utterance(utterance_id(path.name), name)], []


def _listed(lines: Iterable[str]) -> list[Utterance]:
    paths = [line.rstrip("\r\n") for line in lines]
    found = [
        Utterance(utterance_id(os.path.normpath(path)), path) for path in paths if path.strip()
    ]
    if not found:
        raise UserError("embed: standard input holds no paths; pipe one audio file a line into it")
    return found


def _folder(root: Path) -> Iterator[Utterance]:
    """Audio files below `root` in the order of their paths; names that begin with a dot are passed
    over.
    """
    files = []
    for folder, children, names in os.walk(root, followlinks=True):
        children[:] = sorted(child for child in children if not child.startswith("."))
        for name in names:
            if os.path.splitext(name)[1].lower() in reading.EXTENSIONS and not name.startswith("."):
                files.append(os.path.relpath(os.path.join(folder, name), root))
    if not files:
        known = " ".join(sorted(reading.EXTENSIONS))
        raise UserError(
            f"embed: {root} holds no audio files ({known}) and no wav.scp; give another folder"
        )
    for file in sorted(files):
        yield Utterance(utterance_id(Path(file).as_posix()), str(root / file))


def _refuse_duplicates(utterances: Sequence[Utterance]) -> None:
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        first = seen.setdefault(utterance.id, utterance)
        if first is not utterance:
            raise UserError(
                f"embed: the id {utterance.id!r} stands for both {first.path} and {utterance.path};"
                " rename one, or give the folder that holds both, or a wav.scp with ids of your"
                " own"
            )
