"""How long each file of a corpus is, and which are no use: read by several threads, listed, never
fatal.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechssl.audio import reading
from speechssl.audio.readers import Samples
from speechssl.audio.silence import is_silent
from speechssl.corpora.listing import Found
from speechssl.data.kaldi import label_names, write_skipped
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.errors import UserError
from speechssl.threads import usable_cores

_CHUNK = 64  # files a task: a million tasks would cost more than the headers


@dataclass(frozen=True, slots=True)
class Usable:
    """What of a file is used, in seconds (`stop` None: to the end, `seconds` away from `start`)."""

    path: str
    start: float
    stop: float | None
    seconds: float
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a file is left out: the kind of reason, and details."""

    kind: str
    detail: str = ""

    @property
    def line(self) -> str:
        """Both, on one line."""
        return " ".join((f"{self.kind}: {self.detail}" if self.detail else self.kind).split())


def measure(
    found: Sequence[Found | Skip],
    root: Path,
    *,
    check: bool = False,
    trim: float | None = None,
    least: float = 0.0,
    jobs: int | None = None,
) -> list[Usable | Skip]:
    """For each file below `root`, in order, what of it can be used, or why it cannot.

    Args:
        check: decode each file, to find silent and damaged ones; otherwise only headers are read.
        trim: cut both ends where the level is this many dB below the loudest.
        least: seconds below which a file is left out.
        jobs: threads; None: all cores.
    """

    def several(part: Sequence[Found | Skip]) -> list[Usable | Skip]:
        return [
            item if isinstance(item, Skip) else _inspect(item, root, trim, least, check)
            for item in part
        ]

    parts = [found[first : first + _CHUNK] for first in range(0, len(found), _CHUNK)]
    with ThreadPoolExecutor(max(1, jobs or usable_cores())) as pool:
        return [
            result for part in _progress(pool.map(several, parts), len(found)) for result in part
        ]


def prepare_files(
    files: Sequence[tuple[str, Found]],
    root: Path,
    out: Path,
    *,
    check: bool,
    jobs: int | None,
    unfit: Callable[[Usable], Skip | None] = lambda _: None,
) -> Manifest:
    """The Kaldi directory of whole files (utterance id, file and labels), written and returned.

    `unfit` may refuse a file that can be read. Raises UserError if none is left.
    """
    refuse_file(out)
    results = measure([item for _, item in files], root, check=check, jobs=jobs)
    utterances, labels, skipped = [], dict[str, dict[str, str]](), []
    for (name, item), result in zip(files, results, strict=True):
        reason = result if isinstance(result, Skip) else unfit(result)
        if reason is not None:
            skipped.append((item.path, reason.line))
            continue
        assert isinstance(result, Usable)
        utterances.append(Utterance(name, result.path, seconds=result.seconds))
        for label, value in result.labels.items():
            labels.setdefault("spk" if label == "speaker" else label, {})[name] = value
    if not utterances:
        raise none_usable(root, skipped)
    manifest = Manifest(sorted(utterances, key=lambda u: u.id), labels, skipped=skipped)
    write(manifest, out)
    return manifest


def write(manifest: Manifest, out: Path) -> None:
    """The Kaldi directory without an earlier run's files, OUT/skipped.tsv, and a line that
    counts.
    """
    stale = [
        out / f"utt2{label}" for label in label_names(out) if label not in {"spk", *manifest.labels}
    ]
    write_manifest(manifest, out)
    for path in (*stale, out / "trials"):
        path.unlink(missing_ok=True)
    left_out = write_skipped(manifest.skipped, out)
    print(
        f"{out}: {len(manifest)} utterances, {manifest.seconds / 3600:.2f} h{left_out}",
        file=sys.stderr,
    )


def refuse_file(out: Path) -> None:
    """Raises UserError if `out` is a file."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a directory to write to")


def none_usable(root: Path, skipped: Sequence[tuple[str, str]]) -> UserError:
    """The error for a corpus of which every file was left out."""
    path, reason = skipped[0]
    return UserError(
        f"{root}: none of {len(skipped)} files can be used; the first, {path}: {reason}"
    )


def _inspect(
    item: Found, root: Path, trim: float | None, least: float, check: bool
) -> Usable | Skip:
    """Decide on one file."""
    path = os.path.abspath(root / item.path)
    if "\n" in path or "\r" in path:
        return Skip("line break in its name", "rename it")
    try:
        start, stop, seconds, silent_peak = _measured(path, trim, check)
    except UserError as error:
        return Skip(_kind(str(error)), str(error).removeprefix(f"{path}: "))
    if silent_peak is not None:
        return Skip("silent", f"its peak is {20 * math.log10(max(silent_peak, 1e-10)):.0f} dBFS")
    if seconds < least:
        return Skip("too short", f"{seconds:.3f} s{' after trimming' if trim is not None else ''}")
    return Usable(path, start, stop, seconds, item.labels)


def _measured(
    path: str, trim: float | None, check: bool
) -> tuple[float, float | None, float, float | None]:
    """Return (start, stop, seconds, peak) of what a file holds.

    The peak is given only if the file was decoded and is silent.
    """
    if trim is not None:
        found = reading.info(path)
        samples = reading.read(path, found.rate)
        if is_silent(samples):
            return 0.0, found.seconds, found.seconds, float(np.abs(samples).max())
        start, stop = _ends(samples, found.rate, trim)
        return start, stop, stop - start, None
    if check:
        content = reading.check(path)
        silent_peak = content.peak if content.is_silent else None
        return 0.0, None, content.info.seconds, silent_peak
    return 0.0, None, reading.info(path).seconds, None


def _ends(samples: Samples, rate: int, trim: float) -> tuple[float, float]:
    """(start, stop) in seconds of the part whose ends are at most `trim` dB below the loudest
    frame.

    Frames of 128 ms every 32 ms: librosa's 2048 and 512 samples at 16 kHz.
    """
    import librosa

    _, (first, last) = librosa.effects.trim(
        samples, top_db=trim, frame_length=round(0.128 * rate), hop_length=round(0.032 * rate)
    )
    return int(first) / rate, int(last) / rate


def _progress(parts: Iterable[list[Usable | Skip]], total: int) -> Iterable[list[Usable | Skip]]:
    """A bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(total=total, unit="file", desc="reading", disable=None) as bar:
        for part in parts:
            yield part
            bar.update(len(part))


def _kind(message: str) -> str:
    """The kind of a reading error, for counting."""
    names = {"is empty": "empty", "NaN": "not finite", "PyAV": "without PyAV"}
    known = (
        "no such file",
        "is empty",
        "NaN",
        "truncated",
        "PyAV",
        "permission denied",
        "is a directory",
    )
    kind = next((kind for kind in known if kind in message), "corrupt")
    return names.get(kind, kind)
