"""Measuring the files of a corpus, and writing its Kaldi directory.

Several threads read the headers, or decode the files. A file that cannot be used never
ends the run: it is left out and listed in OUT/skipped.tsv.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from speechssl.audio import reading
from speechssl.audio.silence import is_silent
from speechssl.audio.walk import utterance_ids
from speechssl.corpora.listing import Found
from speechssl.data.kaldi import label_names, report_skipped
from speechssl.data.manifest import Manifest, Utterance, wav_scp_obstacle, write_manifest
from speechssl.errors import UserError
from speechssl.pools import ThreadPool
from speechssl.progress import progress
from speechssl.threads import usable_cores

_FILES_PER_TASK = 64  # a task for each of a million files would cost more than their headers

ROUNDING = 0.05
"""Seconds by which a list may place the end of a span behind the end of its file."""

_KINDS = {
    "no such file": "no such file",
    "is empty": "empty",
    "NaN": "not finite",
    "truncated": "truncated",
    "PyAV": "without PyAV",
    "permission denied": "permission denied",
    "is a directory": "is a directory",
}
"""Words in the message of a reading error -> the kind under which it is counted."""


@dataclass(frozen=True, slots=True)
class Usable:
    """What of a file is used.

    Attributes:
        path: the file, absolute.
        start: where it begins, seconds.
        stop: where it ends, seconds; None: at the end of the file.
        seconds: its length.
        labels: as in `listing.Found`, and so is `channel`.
        channel: which channel is used.
        is_mixed: it has several channels, and their mean is used.
    """

    path: str
    start: float
    stop: float | None
    seconds: float
    labels: dict[str, str] = field(default_factory=dict)
    channel: int | None = None
    is_mixed: bool = False


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a file is left out.

    Attributes:
        kind: the reason in a word or a few, by which files are counted.
        detail: more about it.
    """

    kind: str
    detail: str = ""

    @property
    def line(self) -> str:
        """Both, on one line."""
        text = self.kind
        if self.detail:
            text += f": {self.detail}"
        return " ".join(text.split())


def measure(
    found: Sequence[Found | Skip],
    root: Path,
    *,
    check: bool = False,
    trim: float | None = None,
    min_seconds: float = 0.0,
    jobs: int | None = None,
) -> list[Usable | Skip]:
    """Return for each file, in order, what of it can be used, or why it is left out.

    Args:
        found: files below `root`; a Skip is passed through.
        root: the folder of the corpus.
        check: decode each file, to find silent and damaged ones; otherwise only headers
            are read.
        trim: cut both ends where the level is this many dB below the loudest.
        min_seconds: leave out what is shorter, after trimming.
        jobs: threads; None: as many as there are usable cores.
    """

    def measure_some(items: Sequence[Found | Skip]) -> list[Usable | Skip]:
        results: list[Usable | Skip] = []
        for item in items:
            if isinstance(item, Found):
                results.append(_measure_file(item, root, trim, min_seconds, check))
            else:
                results.append(item)
        return results

    tasks = [
        found[first : first + _FILES_PER_TASK] for first in range(0, len(found), _FILES_PER_TASK)
    ]
    measured: list[Usable | Skip] = []
    with ThreadPool(max(1, jobs or usable_cores())) as pool:
        for results in _with_progress(pool.map(measure_some, tasks), len(found)):
            measured += results
    return measured


def with_ids(found: Sequence[Found]) -> list[tuple[str, Found]]:
    """Return files with the ids that their paths give: white space, which Kaldi's do not have, is `_`."""
    return list(zip(utterance_ids([item.path for item in found]), found, strict=True))


def prepare_files(
    files: Sequence[tuple[str, Found]],
    root: Path,
    out: Path,
    *,
    check: bool,
    jobs: int | None,
    reject: Callable[[Usable], Skip | None] = lambda _: None,
    left_out: Sequence[tuple[str, str]] = (),
) -> Manifest:
    """Write the Kaldi directory of whole files, and return it.

    Args:
        files: the id of each utterance, and its file.
        root: the folder of the corpus.
        out: the directory to write.
        check: as in `measure`.
        jobs: as in `measure`.
        reject: says why a file that can be read is left out, or None.
        left_out: (path, reason) of what was left out before, to be listed, too.

    Raises:
        UserError: no file is left.
    """
    refuse_file(out)
    results = measure([item for _, item in files], root, check=check, jobs=jobs)
    manifest = Manifest([], skipped=list(left_out))
    for (name, item), result in zip(files, results, strict=True):
        if isinstance(result, Usable):
            rejected = reject(result)
            if rejected is None:
                utterance = Utterance(name, result.path, seconds=result.seconds)
                add_utterance(manifest, utterance, result.labels)
                continue
            result = rejected
        manifest.skipped.append((item.path, result.line))
    write(manifest, root, out)
    return manifest


@dataclass(frozen=True, slots=True)
class Piece:
    """An utterance that is a file, or a span of one.

    Attributes:
        id: of the utterance.
        path: the file, below the root of the corpus.
        start: where it begins, seconds.
        stop: where it ends, seconds; None: at the end of the file.
        labels: as in `listing.Found`.
        recording: id of the file in wav.scp, where pieces are segments; "": that of a piece.
        channel: as in `listing.Found`.
    """

    id: str
    path: str
    start: float = 0.0
    stop: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    recording: str = ""
    channel: int | None = None


def prepare_pieces(
    pieces: Sequence[Piece],
    root: Path,
    out: Path,
    *,
    check: bool,
    jobs: int | None,
    left_out: Sequence[tuple[str, str]] = (),
    stated: Mapping[str, float] | None = None,
) -> Manifest:
    """Write the Kaldi directory of files and spans of files, and return it.

    A file is measured once, however many pieces it has. What is left out is listed: a file that
    cannot be used, a span that its file does not hold, an id that was there before.

    Args:
        pieces: the utterances.
        root: the folder of the corpus.
        out: the directory to write.
        check: as in `measure`.
        jobs: as in `measure`.
        left_out: (path, reason) of what was left out before, to be listed, too.
        stated: path -> seconds of what is not opened here: addresses and shell commands.

    Raises:
        UserError: no utterance is left.
    """
    refuse_file(out)
    stated = stated or {}
    wanted = dict.fromkeys((piece.path, piece.channel) for piece in pieces)
    here = [(path, channel) for path, channel in wanted if path not in stated]
    found = [Found(path, channel=channel) for path, channel in here]
    files = dict(zip(here, measure(found, root, check=check, jobs=jobs), strict=True))
    for path, channel in wanted:
        if path in stated:
            files[path, channel] = Usable(path, 0.0, None, stated[path])
    manifest = Manifest([], skipped=list(left_out))
    for (path, _), result in files.items():
        if isinstance(result, Skip):
            manifest.skipped.append((path, result.line))
    seen: set[str] = set()
    for piece in pieces:
        file = files[piece.path, piece.channel]
        if isinstance(file, Skip):
            continue
        utterance = span_of(piece, file.path, file.seconds)
        if piece.id in seen:
            utterance = Skip("id twice", "rename one")
        if isinstance(utterance, Skip):
            manifest.skipped.append((piece.id, utterance.line))
            continue
        seen.add(piece.id)
        if piece.recording:
            manifest.recordings[utterance.recording] = piece.recording
        add_utterance(manifest, utterance, piece.labels)
    write(manifest, root, out)
    return manifest


def span_of(piece: Piece, path: str, seconds: float) -> Utterance | Skip:
    """Return the utterance of a piece of a file, or why there is none.

    Args:
        piece: what is wanted.
        path: the file, as wav.scp names it.
        seconds: its length. A span may end up to `ROUNDING` later, and is then cut.
    """
    stop = seconds if piece.stop is None else min(piece.stop, seconds)
    if piece.start >= stop or (piece.stop or 0.0) > seconds + ROUNDING:
        wanted = f"{piece.start:g} to {piece.stop or seconds:g} s"
        return Skip("outside its file", f"{wanted} of {path}, which has {seconds:.3f} s")
    whole = Utterance(piece.id, path, seconds=seconds, channel=piece.channel)
    if piece.start == 0 and stop == seconds:
        return whole
    return replace(whole, start=piece.start, stop=stop, seconds=stop - piece.start)


def add_utterance(manifest: Manifest, utterance: Utterance, labels: dict[str, str]) -> None:
    """Add an utterance and its labels; the label "speaker" becomes "spk", as in utt2spk."""
    manifest.utterances.append(utterance)
    for label, value in labels.items():
        name = "spk" if label == "speaker" else label
        manifest.labels.setdefault(name, {})[utterance.id] = value


def write(manifest: Manifest, root: Path, out: Path) -> None:
    """Sort the utterances and write the Kaldi directory.

    OUT/skipped.tsv lists what was left out, and one line on standard error counts both.
    Labels and trials of an earlier run are removed.

    Args:
        manifest: what to write.
        root: the folder of the corpus, for messages.
        out: the directory.

    Raises:
        UserError: there is no utterance.
    """
    if not manifest.utterances:
        path, reason = manifest.skipped[0]
        count = len(manifest.skipped)
        raise UserError(f"{root}: none of {count} files can be used; the first, {path}: {reason}")
    manifest.utterances.sort(key=lambda utterance: utterance.id)
    outdated = ["trials"]
    for pattern in ("trials-*", "pairs-*", "enrol2utt*"):
        outdated += [path.name for path in out.glob(pattern)]
    outdated += [f"utt2{label}" for label in label_names(out)]
    write_manifest(manifest, out, outdated=outdated)
    left_out = report_skipped(manifest.skipped, out)
    hours = manifest.seconds / 3600
    print(f"{out}: {len(manifest)} utterances, {hours:.2f} h{left_out}", file=sys.stderr)


def refuse_file(out: Path) -> None:
    """Raise UserError if `out` is a file."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a directory to write to")


def _measure_file(
    item: Found, root: Path, trim: float | None, min_seconds: float, check: bool
) -> Usable | Skip:
    """Return what of one file can be used, or why it is left out."""
    path = os.path.abspath(root / item.path)
    obstacle = wav_scp_obstacle(path)
    if obstacle:
        return Skip(obstacle, "rename it")
    try:
        if trim is not None:
            span = _trimmed(path, trim, item.channel)
        elif check:
            span = _decoded(path, item.channel)
        else:
            found = reading.info(path)
            span = _Span(0.0, None, found.seconds, found.channels)
    except UserError as error:
        return Skip(_kind(str(error)), str(error).removeprefix(f"{path}: "))
    if span.silent_peak is not None:
        decibels = 20 * math.log10(max(span.silent_peak, 1e-10))
        return Skip("silent", f"its peak is {decibels:.0f} dBFS")
    if span.seconds < min_seconds:
        after = " after trimming" if trim is not None else ""
        return Skip("too short", f"{span.seconds:.3f} s{after}")
    is_mixed = item.channel is None and span.channels > 1
    return Usable(
        path, span.start, span.stop, span.seconds, item.labels, item.channel, is_mixed=is_mixed
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of a file in seconds; `silent_peak` is its peak (of 1) if it was found to be silent."""

    start: float
    stop: float | None
    seconds: float
    channels: int
    silent_peak: float | None = None


def _decoded(path: str, channel: int | None) -> _Span:
    """Decode a whole file."""
    content = reading.check(path, channel)
    silent_peak = content.peak if content.is_silent else None
    return _Span(0.0, None, content.info.seconds, content.info.channels, silent_peak)


def _trimmed(path: str, trim: float, channel: int | None) -> _Span:
    """Decode a file and find the part whose ends are at most `trim` dB below the loudest frame.

    Frames of 128 ms every 32 ms: librosa's 2048 and 512 samples at 16 kHz.
    """
    import librosa

    found = reading.info(path)
    samples = reading.read(path, found.rate, channel=channel)
    if is_silent(samples):
        peak = float(np.abs(samples).max())
        return _Span(0.0, found.seconds, found.seconds, found.channels, peak)
    _, (first, last) = librosa.effects.trim(
        samples,
        top_db=trim,
        frame_length=round(0.128 * found.rate),
        hop_length=round(0.032 * found.rate),
    )
    start = int(first) / found.rate
    stop = int(last) / found.rate
    return _Span(start, stop, stop - start, found.channels)


def _with_progress(
    results: Iterable[list[Usable | Skip]], total: int
) -> Iterator[list[Usable | Skip]]:
    """Yield what comes, and show how many files have been read."""
    with progress(total, "reading", "files") as done:
        for some in results:
            yield some
            done(len(some))


def _kind(message: str) -> str:
    """Return the kind of a reading error, for counting."""
    for words, kind in _KINDS.items():
        if words in message:
            return kind
    return "corrupt"
