"""Measuring the files of a corpus, and writing its Kaldi directory.

Several threads read the headers, or decode the files. A file that cannot be used never
ends the run: it is left out and listed in OUT/skipped.tsv.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
        labels: as in `listing.Found`.
    """

    path: str
    start: float
    stop: float | None
    seconds: float
    labels: dict[str, str] = field(default_factory=dict)


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
) -> Manifest:
    """Write the Kaldi directory of whole files, and return it.

    Args:
        files: the id of each utterance, and its file.
        root: the folder of the corpus.
        out: the directory to write.
        check: as in `measure`.
        jobs: as in `measure`.
        reject: says why a file that can be read is left out, or None.

    Raises:
        UserError: no file is left.
    """
    refuse_file(out)
    results = measure([item for _, item in files], root, check=check, jobs=jobs)
    manifest = Manifest([])
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
    outdated = ["trials", *(path.name for path in out.glob("trials-*"))]
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
            span = _trimmed(path, trim)
        elif check:
            span = _decoded(path)
        else:
            span = _Span(0.0, None, reading.info(path).seconds)
    except UserError as error:
        return Skip(_kind(str(error)), str(error).removeprefix(f"{path}: "))
    if span.silent_peak is not None:
        decibels = 20 * math.log10(max(span.silent_peak, 1e-10))
        return Skip("silent", f"its peak is {decibels:.0f} dBFS")
    if span.seconds < min_seconds:
        after = " after trimming" if trim is not None else ""
        return Skip("too short", f"{span.seconds:.3f} s{after}")
    return Usable(path, span.start, span.stop, span.seconds, item.labels)


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of a file in seconds; `silent_peak` is its peak (of 1) if it was found to be silent."""

    start: float
    stop: float | None
    seconds: float
    silent_peak: float | None = None


def _decoded(path: str) -> _Span:
    """Decode a whole file."""
    content = reading.check(path)
    silent_peak = content.peak if content.is_silent else None
    return _Span(0.0, None, content.info.seconds, silent_peak)


def _trimmed(path: str, trim: float) -> _Span:
    """Decode a file and find the part whose ends are at most `trim` dB below the loudest frame.

    Frames of 128 ms every 32 ms: librosa's 2048 and 512 samples at 16 kHz.
    """
    import librosa

    found = reading.info(path)
    samples = reading.read(path, found.rate)
    if is_silent(samples):
        peak = float(np.abs(samples).max())
        return _Span(0.0, found.seconds, found.seconds, peak)
    _, (first, last) = librosa.effects.trim(
        samples,
        top_db=trim,
        frame_length=round(0.128 * found.rate),
        hop_length=round(0.032 * found.rate),
    )
    start = int(first) / found.rate
    stop = int(last) / found.rate
    return _Span(start, stop, stop - start)


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
