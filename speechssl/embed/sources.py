"""What `speechssl embed` is given: files, folders, wav.scp files, Kaldi directories, paths on stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from speechssl.audio import reading
from speechssl.audio.remotes import Remote, Remotes, is_address, refusal
from speechssl.audio.tables import read_wav_scp
from speechssl.audio.walk import PassedOver, audio_files, utterance_id, utterance_ids
from speechssl.data.manifest import Utterance, read_manifest
from speechssl.embed.batches import Failure
from speechssl.embed.lists import is_list, read_slice, slices
from speechssl.errors import UserError


def collect(
    inputs: Sequence[str | Path],
    allow_pipes: bool = False,
    remotes: Remotes | None = None,
    passed_over: list[PassedOver] | None = None,
) -> tuple[list[Utterance], list[Failure]]:
    """Find the utterances that `inputs` name.

    | input                            | ids                                                              |
    |----------------------------------|------------------------------------------------------------------|
    | a Kaldi directory (has wav.scp)  | those of `segments`, or else of `wav.scp`                        |
    | a file that ends in `.scp`       | its own; the whole recordings                                    |
    | a file that ends in `.parquet`   | its column `id`; files and pieces of them (`lists`)              |
    | a folder                         | of every audio file below it, the path from there, with extension|
    | any other file                   | its name, with extension                                         |
    | an address that `remotes` allows | the last part of its path                                        |
    | `-`                              | one path a line on standard input: the paths as they are written |

    White space in a path becomes `_` in the id, and files of a folder whose ids would be equal get
    `_2` and so on, as in `speechssl prepare folder`.

    Args:
        inputs: names, in any mixture.
        allow_pipes: run the shell pipes in wav.scp.
        remotes: addresses that wav.scp and standard input may name; None: none.
        passed_over: gets an entry for each file of a folder that is no audio.

    Returns:
        The utterances in the order given (`seconds` is 0 where it is not known), and
        the lines of Kaldi files and lists that cannot be used.

    Raises:
        UserError: an input does not exist or holds no audio, or two inputs share an id.
    """
    if not inputs:
        raise UserError(
            "embed: no input; give audio files, folders, wav.scp files, Kaldi directories, or -"
        )
    remotes = remotes or Remotes()
    found: list[Utterance] = []
    skipped: list[Failure] = []
    if passed_over is None:
        passed_over = []
    for name in inputs:
        utterances, bad_lines = _expand(str(name), allow_pipes, remotes, passed_over)
        found += utterances
        for identifier, reason in bad_lines:
            skipped.append(Failure(identifier, str(name), reason))
    _refuse_duplicates(found)
    return found, skipped


def _expand(
    name: str, allow_pipes: bool, remotes: Remotes, passed_over: list[PassedOver]
) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Return the utterances of one input, and (id, reason) of lines that cannot be used."""
    if name == "-":
        return _listed(sys.stdin, remotes), []
    if is_address(name):
        place = remotes.permit(name)
        if not isinstance(place, Remote):
            raise UserError(f"embed: {name} {refusal(name)}")
        return [Utterance(utterance_id(name.rpartition("/")[2]), place)], []
    path = Path(name)
    if path.is_dir() and (path / "wav.scp").is_file():
        manifest = read_manifest(
            path, labels=(), allow_pipes=allow_pipes, on_bad="skip", remotes=remotes
        )
        return manifest.utterances, manifest.skipped
    if path.is_dir():
        return _in_folder(path, passed_over), []
    if not path.exists():
        raise UserError(f"embed: {name}: no such file or folder; check the path")
    if path.suffix == ".scp":
        return _in_scp(path, allow_pipes, remotes)
    if is_list(path):
        return _in_list(path, remotes)
    return [Utterance(utterance_id(path.name), name)], []


def _listed(lines: Iterable[str], remotes: Remotes) -> list[Utterance]:
    """Return the files that `lines` name, one a line."""
    found = []
    for line in lines:
        path = line.rstrip("\r\n")
        if path.strip():
            found.append(Utterance(utterance_id(os.path.normpath(path)), remotes.permit(path)))
    if not found:
        raise UserError("embed: standard input holds no paths; pipe one audio file a line into it")
    return found


def _in_folder(root: Path, passed_over: list[PassedOver]) -> list[Utterance]:
    """Return the audio files below `root` in the order of their paths."""
    here: list[PassedOver] = []
    paths = sorted(audio_files(root, here))
    passed_over += [PassedOver(str(root / item.path), item.reason) for item in here]
    if not paths:
        known = " ".join(sorted(reading.EXTENSIONS))
        raise UserError(
            f"embed: {root} holds no audio files ({known}, or others by their content) and no"
            " wav.scp; give another folder"
        )
    ids = utterance_ids([Path(path).as_posix() for path in paths])
    return [Utterance(name, str(root / path)) for name, path in zip(ids, paths, strict=True)]


def _in_list(path: Path, remotes: Remotes) -> tuple[list[Utterance], list[tuple[str, str]]]:
    found: list[Utterance] = []
    bad: list[tuple[str, str]] = []
    for piece in slices(path, sys.maxsize):  # a slice reads the whole row group that it is of
        found += read_slice(piece, remotes, lambda *row: bad.append(row))
    return found, bad


def _in_scp(
    path: Path, allow_pipes: bool, remotes: Remotes
) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Return the recordings of a wav.scp, and (id, reason) of lines that cannot be used."""
    bad_lines: list[tuple[str, str]] = []
    recordings = read_wav_scp(
        path,
        lambda identifier, reason: bad_lines.append((identifier, reason)),
        allow_pipes=allow_pipes,
        check_files=True,
        remotes=remotes,
    )
    return [Utterance(identifier, place) for identifier, place in recordings.items()], bad_lines


def _refuse_duplicates(utterances: Sequence[Utterance]) -> None:
    """Raise UserError if two utterances have the same id; the message names both files."""
    first_with: dict[str, Utterance] = {}
    for utterance in utterances:
        first = first_with.setdefault(utterance.id, utterance)
        if first is not utterance:
            raise UserError(
                f"embed: the id {utterance.id!r} stands for both {first.path} and {utterance.path};"
                " rename one, or give the folder that holds both, or a wav.scp with ids of your"
                " own"
            )
