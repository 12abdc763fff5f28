"""Any folder of audio -> a Kaldi directory: `speechssl prepare folder ROOT OUT`.

Ids are the paths below ROOT (as in VoxCeleb's lists), white space replaced by `_`. Files that cannot be
used are left out and listed; no audio is copied. Labels come from ROOT/utterances.tsv or, if asked for, from
the paths.
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl import audio
from speechssl.corpora._listing import Found, ids_of, labels_of, listing, path_labels
from speechssl.data.kaldi import label_names
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.trials import read_trials, write_trials
from speechssl.errors import UserError

_SILENT = 1e-4  # peak below which a file counts as silent: -80 dBFS
_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    speaker: str | None = None,
    trim: float | None = None,
    min_seconds: float = 0.5,
    max_seconds: float | None = None,
    check: bool = True,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory for every audio file below a folder (wav flac ogg opus mp3 m4a mp4 aac).

    If the folder holds utterances.tsv, that says which files there are (column `path`), their speakers
    (`speaker`) and other labels (any other column, but not `utt` and `seconds`); if it holds `trials`, they
    are checked and copied. Corrupt, empty, silent (below -80 dBFS), non-finite and too short files are left
    out, counted on standard error, and listed with their reasons in OUT/skipped.tsv.

    Args:
        root: the folder of audio.
        out: the Kaldi directory to write.
        speaker: where a path names the speaker: a pattern such as '{speaker}/{session}/*.wav', whose
            other names become labels, or a regular expression with one group. Without it (and
            without a column in utterances.tsv) every utterance is its own speaker, which is no label.
        trim: cut both ends where the level is this many dB below the loudest (35 is usual); gives segments.
        min_seconds: leave out what is shorter, after trimming.
        max_seconds: cut what is longer into equal consecutive segments of at most this length.
        check: decode every file once, to find silent and damaged ones; otherwise only headers are read.
        jobs: files at a time; all cores if not given.

    Raises:
        UserError: a bad folder, table, pattern or trial list, or no usable file.
    """
    root, out = Path(root), Path(out)
    _check_numbers(trim, min_seconds, max_seconds, jobs)
    expression = None if speaker is None else path_labels(speaker)
    return write_directory(
        listing(root),
        root,
        out,
        expression,
        trim=trim,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        check=check,
        jobs=jobs,
    )


def write_directory(
    found: list[Found],
    root: Path,
    out: Path,
    expression: re.Pattern[str] | None = None,
    *,
    trim: float | None = None,
    min_seconds: float = 0.5,
    max_seconds: float | None = None,
    check: bool = True,
    jobs: int | None = None,
) -> Manifest:
    """Write the Kaldi directory of the files and labels ``found`` below ``root``; see ``prepare``."""
    if root.resolve() == out.resolve():
        raise UserError(f"{out}: is the folder of audio itself; give another directory to write to")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a directory to write to")
    inspect = functools.partial(
        _inspect, root=root, expression=expression, trim=trim, least=min_seconds, check=check
    )
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        results = list(_progress(pool.map(inspect, found), len(found)))
    utterances, labels, recordings = [], dict[str, dict[str, str]](), {}
    skipped: list[tuple[str, _Skip]] = []
    seen: set[str] = set()
    for name, item, result in zip(ids_of([f.path for f in found]), found, results, strict=True):
        if isinstance(result, _Skip) or item.path in seen:
            skipped.append((item.path, result if isinstance(result, _Skip) else _Skip("listed twice")))
            continue
        seen.add(item.path)
        recordings[result.path] = name
        for piece in _pieces(name, result, max_seconds):
            utterances.append(piece)
            for label, value in result.labels.items():
                labels.setdefault("spk" if label == "speaker" else label, {})[piece.id] = value
    if not utterances:
        path, skip = skipped[0]
        raise UserError(f"{root}: none of {len(found)} files can be used; the first, {path}: {skip.line}")
    manifest = Manifest(sorted(utterances, key=lambda u: u.id), labels, recordings)
    manifest.skipped = [(path, skip.line) for path, skip in skipped]
    _write(manifest, root, out, [skip.kind for _, skip in skipped])
    return manifest


@dataclass(frozen=True, slots=True)
class _Usable:
    """What of a file is used, in seconds (`stop` None: to the end, `seconds` away from `start`)."""

    path: str
    start: float
    stop: float | None
    seconds: float
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Skip:
    """Why a file is left out: the kind of reason, and details."""

    kind: str
    detail: str = ""

    @property
    def line(self) -> str:
        return " ".join((f"{self.kind}: {self.detail}" if self.detail else self.kind).split())


def _inspect(
    item: Found,
    *,
    root: Path,
    expression: re.Pattern[str] | None,
    trim: float | None,
    least: float,
    check: bool,
) -> _Usable | _Skip:
    """Decide on one file."""
    labels = item.labels
    if expression is not None:
        from_path = labels_of(item.path, expression)
        if from_path is None:
            return _Skip("path without a speaker", "--speaker does not fit it")
        labels = labels | from_path
    if "speaker" in labels:
        labels = labels | {"speaker": re.sub(r"\s", "_", labels["speaker"])}
    path = os.path.abspath(root / item.path)
    if "\n" in path or "\r" in path:
        return _Skip("line break in its name", "rename it")
    try:
        start, stop, seconds, peak = _measure(path, trim, check)
    except UserError as error:
        return _Skip(_kind(str(error)), str(error).removeprefix(f"{path}: "))
    if peak < _SILENT:
        return _Skip("silent", f"its peak is {20 * math.log10(max(peak, 1e-10)):.0f} dBFS")
    if seconds < least:
        return _Skip("too short", f"{seconds:.3f} s{' after trimming' if trim is not None else ''}")
    return _Usable(path, start, stop, seconds, labels)


def _measure(path: str, trim: float | None, check: bool) -> tuple[float, float | None, float, float]:
    """(start, stop, seconds, peak) of what a file holds; the peak of an undecoded file counts as 1."""
    if trim is not None:
        found = audio.info(path)
        samples = audio.read(path, found.rate)
        peak = float(np.abs(samples).max())
        start, stop = _ends(samples, found.rate, trim) if peak >= _SILENT else (0.0, found.seconds)
        return start, stop, stop - start, peak
    if check:
        found, peak = audio.check(path)
        return 0.0, None, found.seconds, peak
    return 0.0, None, audio.info(path).seconds, 1.0


def _ends(samples: audio.Samples, rate: int, trim: float) -> tuple[float, float]:
    """(start, stop) in seconds of the part whose ends are at most `trim` dB below the loudest frame.

    Frames of 128 ms every 32 ms: librosa's 2048 and 512 samples at 16 kHz.
    """
    import librosa

    _, (first, last) = librosa.effects.trim(
        samples, top_db=trim, frame_length=round(0.128 * rate), hop_length=round(0.032 * rate)
    )
    return int(first) / rate, int(last) / rate


def _pieces(name: str, found: _Usable, most: float | None) -> Iterator[Utterance]:
    """The file as one utterance or, where it is longer than `most` seconds, as equal pieces."""
    count = 1 if most is None else math.ceil(found.seconds / most - 1e-9)
    if count <= 1:
        yield Utterance(name, found.path, found.start, found.stop, found.seconds)
        return
    cuts = [round(found.start + found.seconds * k / count, 3) for k in range(count + 1)]
    cuts[0], cuts[-1] = found.start, found.start + found.seconds
    for start, stop in zip(cuts, cuts[1:], strict=False):
        piece = f"{name}-{round(start * 1000):08d}-{round(stop * 1000):08d}"
        yield Utterance(piece, found.path, start, stop, stop - start)


def _write(manifest: Manifest, root: Path, out: Path, kinds: list[str]) -> None:
    """The Kaldi directory, without an earlier run's files, the list of skipped files, and trials."""
    stale = [out / f"utt2{label}" for label in label_names(out) if label not in {"spk", *manifest.labels}]
    trials = read_trials(root / "trials") if (root / "trials").exists() else None
    write_manifest(manifest, out)
    for path in (*stale, out / "trials", out / "skipped.tsv"):
        path.unlink(missing_ok=True)
    line = f"{out}: {len(manifest)} utterances, {manifest.seconds / 3600:.2f} h"
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds).items()))
        line += f"; {len(kinds)} files skipped ({counts}), listed in {out / 'skipped.tsv'}"
        rows = "".join(f"{path.translate(_ESCAPES)}\t{reason}\n" for path, reason in manifest.skipped)
        with open(out / "skipped.tsv", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("path\treason\n" + rows)
    print(line, file=sys.stderr)
    if trials is not None:
        write_trials(trials, out / "trials", style="voxceleb")
        unknown = trials.unknown(manifest.ids)
        if unknown:
            names = f"{len(unknown)} utterances that are not in {out}, such as {unknown[0]!r}"
            print(f"{out / 'trials'}: names {names}; leave those trials out when scoring", file=sys.stderr)


def _progress(results: Iterable[_Usable | _Skip], total: int) -> Iterable[_Usable | _Skip]:
    """A bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    bar: Iterable[_Usable | _Skip] = tqdm(results, total=total, unit="file", desc="reading", disable=None)
    return bar


def _kind(message: str) -> str:
    """The kind of a reading error, for counting."""
    for kind in (
        "no such file",
        "is empty",
        "NaN",
        "truncated",
        "PyAV",
        "permission denied",
        "is a directory",
    ):
        if kind in message:
            return {"is empty": "empty", "NaN": "not finite", "PyAV": "without PyAV"}.get(kind, kind)
    return "corrupt"


def _check_numbers(trim: float | None, least: float, most: float | None, jobs: int | None) -> None:
    for name, value, floor in (("trim", trim, 0.0), ("max-seconds", most, 0.0), ("jobs", jobs, 0)):
        if value is not None and not value > floor:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    if not least >= 0 or (most is not None and most < 2 * least):
        raise UserError(f"--min-seconds {least:g}: give a number from 0 to half of --max-seconds")
