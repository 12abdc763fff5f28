"""Any folder of audio -> a Kaldi directory: `speechssl prepare folder ROOT OUT`.

Ids are the paths below ROOT (as in VoxCeleb's lists), white space replaced by `_`. Files that
cannot be used are left out and listed; no audio is copied. Labels come from ROOT/utterances.tsv or,
if asked for, from the paths.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from speechssl.corpora.listing import Found, ids_of, labels_of, listing, path_labels
from speechssl.corpora.measuring import Skip, Usable, measure, none_usable, refuse_file, write
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.trials import Trials, read_trials, write_trials
from speechssl.errors import UserError


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
    """Write a Kaldi directory for every audio file below a folder (wav flac aiff ogg opus mp3
    m4a mp4 aac).

    If the folder holds utterances.tsv, that says which files there are (column `path`), their
    speakers (`speaker`) and other labels (any other column, but not `utt` and `seconds`); if it
    holds `trials`, they are checked and copied. Corrupt, empty, silent (below -80 dBFS), non-finite
    and too short files are left out, counted on standard error, and listed with their reasons in
    OUT/skipped.tsv.

    Args:
        root: the folder of audio.
        out: the Kaldi directory to write.
        speaker: where a path names the speaker: a pattern such as '{speaker}/{session}/*.wav',
            whose other names become labels, or a regular expression with one group. Without it (and
            without a column in utterances.tsv) every utterance is its own speaker, which is no
            label.
        trim: cut both ends where the level is this many dB below the loudest (35 is usual); gives
            segments.
        min_seconds: leave out what is shorter, after trimming.
        max_seconds: cut what is longer into equal consecutive segments of at most this length.
        check: decode every file once, to find silent and damaged ones; otherwise only headers are
            read.
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
    """Write the Kaldi directory of the files and labels ``found`` below ``root``; see
    ``prepare``.
    """
    if root.resolve() == out.resolve():
        raise UserError(f"{out}: is the folder of audio itself; give another directory to write to")
    refuse_file(out)
    results = measure(
        [_labelled(item, expression) for item in found],
        root,
        check=check,
        trim=trim,
        least=min_seconds,
        jobs=jobs,
    )
    utterances, labels, recordings = [], dict[str, dict[str, str]](), {}
    skipped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name, item, result in zip(ids_of([f.path for f in found]), found, results, strict=True):
        if isinstance(result, Skip) or item.path in seen:
            reason = result if isinstance(result, Skip) else Skip("listed twice")
            skipped.append((item.path, reason.line))
            continue
        seen.add(item.path)
        recordings[result.path] = name
        for piece in _pieces(name, result, max_seconds):
            utterances.append(piece)
            for label, value in result.labels.items():
                labels.setdefault("spk" if label == "speaker" else label, {})[piece.id] = value
    if not utterances:
        raise none_usable(root, skipped)
    manifest = Manifest(sorted(utterances, key=lambda u: u.id), labels, recordings, skipped)
    trials = read_trials(root / "trials") if (root / "trials").exists() else None
    write(manifest, out)
    if trials is not None:
        _write_trials(trials, manifest, out)
    return manifest


def _labelled(item: Found, expression: re.Pattern[str] | None) -> Found | Skip:
    """The file with the labels that its path tells, or the reason why it tells none."""
    labels = item.labels
    if expression is not None:
        from_path = labels_of(item.path, expression)
        if from_path is None:
            return Skip("path without a speaker", "--speaker does not fit it")
        labels = labels | from_path
    if "speaker" in labels:
        labels = labels | {"speaker": re.sub(r"\s", "_", labels["speaker"])}
    return Found(item.path, labels)


def _pieces(name: str, found: Usable, most: float | None) -> Iterator[Utterance]:
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


def _write_trials(trials: Trials, manifest: Manifest, out: Path) -> None:
    write_trials(trials, out / "trials", style="voxceleb")
    unknown = trials.unknown(manifest.ids)
    if unknown:
        names = f"{len(unknown)} utterances that are not in {out}, such as {unknown[0]!r}"
        print(
            f"{out / 'trials'}: names {names}; leave those trials out when scoring", file=sys.stderr
        )


def _check_numbers(trim: float | None, least: float, most: float | None, jobs: int | None) -> None:
    for name, value, floor in (("trim", trim, 0.0), ("max-seconds", most, 0.0), ("jobs", jobs, 0)):
        if value is not None and not value > floor:
            raise UserError(f"--{name} {value:g}: give a number above 0")
    if not least >= 0 or (most is not None and most < 2 * least):
        raise UserError(f"--min-seconds {least:g}: give a number from 0 to half of --max-seconds")


PART = prepare
