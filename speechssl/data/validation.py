"""Every problem of a Kaldi directory in one pass, for `speechssl validate`, before hours are
spent.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechssl.audio import reading
from speechssl.audio.tables import read_table, read_wav_scp
from speechssl.data.kaldi import (
    label_names,
    read_durations,
    read_labels,
    read_segments,
)
from speechssl.data.trials import read_trials
from speechssl.errors import UserError
from speechssl.threads import usable_cores

Piece = tuple[str, float, float | None]
"""Recording id, start and stop in seconds (None: the end)."""

_TOLERANCE = 0.1  # seconds by which utt2dur and segments may disagree with the audio


def problems(
    directory: str | os.PathLike[str], read_audio: bool = False, *, allow_pipes: bool = False
) -> list[str]:
    """One line for each problem; [] if the directory can be used as it is.

    Looks at wav.scp, segments, utt2dur, utt2spk, every utt2<label>, spk2utt and trials, and whether
    each file exists; with `read_audio` decodes every file and compares lengths. Shell pipes are
    problems unless `allow_pipes`; then `read_audio` runs them.
    """
    folder = Path(directory)
    if not folder.is_dir():
        return [f"{folder}: no such directory; give a Kaldi directory"]
    if not (folder / "wav.scp").exists():
        return [f"{folder / 'wav.scp'}: no such file; a Kaldi directory needs it"]
    found: list[str] = []

    def bad(_: str, reason: str) -> None:
        found.append(reason)

    try:
        recordings = read_wav_scp(
            folder / "wav.scp", bad, allow_pipes=allow_pipes, check_files=True
        )
        pieces: dict[str, Piece] = {name: (name, 0.0, None) for name in recordings}
        if (folder / "segments").exists():
            pieces = read_segments(folder / "segments", recordings, bad)
        if not pieces and not found:
            found.append(f"{folder}: no utterance in it; add some")
        ids = set(pieces)
        durations = read_durations(folder / "utt2dur", bad)
        if (folder / "utt2dur").exists():
            found += _compare(folder / "utt2dur", ids, durations)
        found += _labels(folder, ids)
        found += _order(folder)
        found += _trials(folder / "trials", ids)
    except UserError as error:
        return [*found, str(error)]
    if read_audio:
        found += _audio(recordings, pieces, durations)
    return found


def _compare(path: Path, ids: set[str], table: Mapping[str, object]) -> list[str]:
    """Ids that only one side knows; at most one line a side."""
    lines = []
    for names, what in (
        (ids - table.keys(), "no line for"),
        (table.keys() - ids, "unknown utterance"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            lines.append(
                f"{path}: {what} {min(names)!r}{more}; make it agree with wav.scp or segments"
            )
    return lines


def _labels(folder: Path, ids: set[str]) -> list[str]:
    found: list[str] = []

    def note(_: str, reason: str) -> None:
        found.append(reason)

    if not (folder / "utt2spk").exists():
        found.append(
            f"{folder / 'utt2spk'}: no such file; write `id id` lines where speakers are unknown"
        )
    for label in label_names(folder):
        table = read_labels(folder, label, note)
        found += _compare(folder / f"utt2{label}", ids, table)
        if label == "spk" and (folder / "spk2utt").exists():
            pairs = {
                (u, s)
                for _, s, names in read_table(folder / "spk2utt", note)
                for u in names.split()
            }
            if pairs != set(table.items()):
                found.append(
                    f"{folder / 'spk2utt'}: is not the inverse of utt2spk; delete it or make it"
                    " anew"
                )
    return found


def _order(folder: Path) -> list[str]:
    """Files whose lines are not sorted by their bytes, as Kaldi's tools need them."""
    lines = []
    for path in sorted(folder.glob("*")):
        if path.name in ("wav.scp", "segments", "spk2utt") or path.name.startswith("utt2"):
            names = [
                line.split(None, 1)[0] for line in path.read_bytes().split(b"\n") if line.strip()
            ]
            if any(later < earlier for earlier, later in zip(names, names[1:], strict=False)):
                lines.append(f"{path}: is not sorted; sort it with LC_ALL=C")
    return lines


def _trials(path: Path, ids: set[str]) -> list[str]:
    if not path.exists():
        return []
    try:
        unknown = sorted(read_trials(path).unknown(ids))
    except UserError as error:
        return [str(error)]
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    return (
        [f"{path}: names unknown utterance {unknown[0]!r}{more}; remove those trials"]
        if unknown
        else []
    )


def _audio(
    recordings: dict[str, str], pieces: dict[str, Piece], durations: dict[str, float]
) -> list[str]:
    """What decoding shows: damaged, silent or non-finite files, and lengths that the text files get
    wrong.
    """

    def examine(path: str) -> float | str:
        try:
            content = reading.check(path)
        except UserError as error:
            return str(error)
        return f"{path}: is silent; remove it" if content.is_silent else content.info.seconds

    paths = list(recordings.values())
    with ThreadPoolExecutor(usable_cores()) as pool:
        lengths = dict(zip(paths, pool.map(examine, paths), strict=True))
    lines = [length for length in lengths.values() if isinstance(length, str)]
    for name, (recording, start, given) in pieces.items():
        path = recordings[recording]
        length = lengths[path]
        if isinstance(length, str):
            continue
        stop = length if given is None else given
        stated = durations.get(name, stop - start)
        if stop > length + _TOLERANCE or start >= length:
            lines.append(
                f"{path}: {name!r} reaches beyond its end at {length:.2f} s; correct segments"
            )
        elif abs(stated - (stop - start)) > _TOLERANCE:
            lines.append(
                f"{path}: {name!r} lasts {stop - start:.2f} s, utt2dur says {stated:g} s; correct"
                " utt2dur"
            )
    return lines
