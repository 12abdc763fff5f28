"""The user's recordings: cut into pieces, and parted into those to learn from and those that judge."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from speechssl import parts
from speechssl.adapt.folders import AdaptFolder
from speechssl.adapt.settings import MIN_RECORDINGS, MIN_WINDOW
from speechssl.audio.walk import PassedOver
from speechssl.data.manifest import (
    Manifest,
    Utterance,
    read_manifest,
    wav_scp_obstacle,
    write_manifest,
)
from speechssl.embed.cutting import MIX, channels_of, count_mixed, find_speech
from speechssl.embed.sources import collect
from speechssl.errors import UserError
from speechssl.files import write_skipped
from speechssl.interfaces import SpeechDetector
from speechssl.text import plural

LONGEST = 8.0
"""Seconds of a piece at most."""

SHORTEST = 2 * MIN_WINDOW
"""Seconds of a piece at least: two windows."""

PAUSE = 1.0
"""Speech on both sides of a shorter pause, in seconds, is in one piece."""

HELD_OUT_SHARE = 0.25
MOST_HELD_OUT = 200
MOST_PIECES = 250
"""Share of the recordings that is held out; recordings and pieces of them at most."""


def prepare(
    folder: AdaptFolder, audio: Sequence[str], vad: str, seed: int, channels: str = MIX
) -> None:
    """Write the Kaldi directories of the pieces, unless they exist.

    No label file is opened. A file counts as one recording: all of its pieces are on one side.

    Args:
        folder: where to.
        audio: files, folders, wav.scp files or Kaldi directories.
        vad: part of `vad/` that finds the speech.
        seed: of the choice of recordings that are held out.
        channels: which of a recording, as in `embed.cutting.Cutting`.

    Raises:
        UserError: fewer recordings than `MIN_RECORDINGS` can be used.
    """
    if (folder.heldout / "wav.scp").exists():  # written last
        return
    print(f"[adapt] look for speech in {' '.join(audio)}", file=sys.stderr, flush=True)
    passed_over: list[PassedOver] = []
    recordings, failures = collect(audio, passed_over=passed_over)
    skipped = [(failure.id, failure.reason) for failure in failures]
    skipped += [(item.path, f"not audio: {item.reason}") for item in passed_over]
    detector: SpeechDetector = parts.build("vad", {"name": vad})
    pieces: list[Utterance] = []
    for recording in recordings:
        try:
            found = []
            for one in channels_of(recording, channels):
                found += _pieces(one, detector)
        except UserError as error:
            skipped.append((recording.path, str(error).removeprefix(f"{recording.path}: ")))
            continue
        pieces += found
    folder.skipped.parent.mkdir(parents=True, exist_ok=True)
    write_skipped(folder.skipped, skipped)
    used = f"{plural(len({piece.path for piece in pieces}), 'recording')} with speech"
    left_out = f"; {len(skipped)} left out, listed in {folder.skipped}" if skipped else ""
    print(f"[adapt] {used}{left_out}", file=sys.stderr, flush=True)
    mixed = count_mixed(recordings) if channels == MIX else 0
    if mixed:
        print(
            f"[adapt] {plural(mixed, 'recording')} with several channels, which are mixed; of calls with"
            " one side on each, --channels each takes every one for itself",
            file=sys.stderr,
        )
    train, heldout = part(pieces, seed, folder)
    write_manifest(_manifest(train), folder.train)
    write_manifest(_manifest(heldout), folder.heldout)


def _pieces(recording: Utterance, detector: SpeechDetector) -> list[Utterance]:
    """Return the pieces of a recording; raise UserError if it cannot be used."""
    obstacle = wav_scp_obstacle(recording.path)
    if obstacle:
        raise UserError(f"{obstacle}; rename it")
    found = cut(recording, find_speech(recording, detector))
    if not found:
        raise UserError(f"no {SHORTEST:g} s of speech in one piece")
    return found


def cut(recording: Utterance, spans: Iterable[tuple[float, float]]) -> list[Utterance]:
    """Return the pieces of a recording: speech with short pauses, at most `LONGEST` seconds each.

    Args:
        recording: the whole of it.
        spans: speech, (start, stop) in seconds of the file, in the order of time.
    """
    joined: list[list[float]] = []
    for start, stop in spans:
        if joined and start - joined[-1][1] < PAUSE:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    pieces = []
    for start, stop in joined:
        count = max(1, math.ceil((stop - start) / LONGEST - 1e-9))
        seconds = (stop - start) / count
        if seconds < SHORTEST:
            continue
        for number in range(count):
            first = round(start + number * seconds, 3)
            last = round(start + (number + 1) * seconds, 3)
            name = f"{recording.id}-{round(first * 1000):08d}-{round(last * 1000):08d}"
            pieces.append(replace(recording, id=name, start=first, stop=last, seconds=last - first))
    return pieces


def part(
    pieces: Sequence[Utterance], seed: int, folder: AdaptFolder
) -> tuple[list[Utterance], list[Utterance]]:
    """Return the pieces to learn from and those that judge; no recording has pieces in both.

    Of the held-out recordings at most `MOST_PIECES` pieces are kept, as many of each as possible.

    Raises:
        UserError: too few recordings.
    """
    paths = sorted({piece.path for piece in pieces})
    if len(paths) < MIN_RECORDINGS:
        raise UserError(
            f"adapt: {len(paths)} recordings can be used and at least {MIN_RECORDINGS} are needed to"
            f" tell better from worse (see {folder.skipped}); give more, or use the model as it is"
        )
    rng = np.random.default_rng(seed)
    count = min(MOST_HELD_OUT, max(MIN_RECORDINGS // 2, round(HELD_OUT_SHARE * len(paths))))
    held = {paths[index] for index in rng.permutation(len(paths))[:count]}
    train = [piece for piece in pieces if piece.path not in held]
    of_path: dict[str, list[Utterance]] = {path: [] for path in sorted(held)}
    for piece in pieces:
        if piece.path in held:
            of_path[piece.path].append(piece)
    heldout: list[Utterance] = []
    most = max(1, MOST_PIECES // count)
    for found in of_path.values():
        chosen = rng.permutation(len(found))[:most]
        heldout += [found[index] for index in sorted(chosen)]
    return train, heldout


def read(folder: AdaptFolder) -> tuple[list[Utterance], list[Utterance]]:
    """Return the pieces to learn from and those that judge, as `prepare` wrote them."""
    return read_manifest(folder.train).utterances, read_manifest(folder.heldout).utterances


def _manifest(pieces: Sequence[Utterance]) -> Manifest:
    """Return a manifest in which each file is a recording named by its place in the list."""
    recordings = sorted(
        {piece.recording for piece in pieces}, key=lambda one: (one[0], one[1] or 0)
    )
    names = {recording: f"recording{number:06d}" for number, recording in enumerate(recordings)}
    return Manifest(list(pieces), recordings=names)
