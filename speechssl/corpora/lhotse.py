"""Any corpus that Lhotse has a recipe for, from its manifests: recordings, supervisions, cuts.

Lhotse (Zelasko et al. 2021, arXiv:2110.12561; github.com/lhotse-speech/lhotse, Apache 2.0) prepares
over a hundred corpora; their licences and counts are their own. Its manifests are read as plain
JSON lines, without Lhotse: nothing in them is run, and no host is asked. `lhotse prepare NAME
AUDIO DIR`, then `speechssl prepare lhotse DIR OUT`.

Layout: `NAME_recordings_PART.jsonl.gz` and `NAME_supervisions_PART.jsonl.gz` in a folder, or
`NAME_cuts_PART.jsonl.gz`; or .jsonl, .json, .json.gz. What a file holds is seen from its first
object, not from its name. Confirmed from Lhotse 1.33 (its sources, and manifests that it wrote).
Shar folders (tar) and YAML are not read: `lhotse copy` writes JSON lines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from speechssl.audio.pipes import Pipe
from speechssl.audio.remotes import Remote, Remotes, is_address, refusal
from speechssl.corpora.lhotse_manifests import (
    SUFFIXES,
    Recording,
    Source,
    Span,
    WrongEntry,
    cut_of,
    entries,
    kind_of,
    leave_out,
    recording_of,
    supervision_of,
)
from speechssl.corpora.measuring import Piece, prepare_pieces, refuse_file
from speechssl.corpora.official import Left
from speechssl.data.manifest import Manifest, channel_id, wav_scp_obstacle
from speechssl.errors import UserError
from speechssl.regular import is_special

T = TypeVar("T")

WHOLE = 1e-3
"""Seconds by which a span may differ from its recording and still be all of it."""

_HARMLESS = frozenset({"Resample"})
"""Transforms that leave the sound as it is: audio is resampled when it is read."""


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    manifests: Sequence[Path] | None = None,
    audio: str | Path | None = None,
    remote: Sequence[str] | None = None,
    allow_pipes: bool = False,
    check: bool = False,
    jobs: int | None = None,
) -> Manifest:
    """Write a Kaldi directory of the supervisions, cuts or recordings of Lhotse's manifests.

    Each supervision is an utterance, or each cut where there are cuts, or each recording where
    there is neither. Parts of files become segments. Labels: utt2spk, utt2gender, utt2language, and
    utt2NAME for each string NAME in `custom` (such as utt2emotion); a cut has those that all
    its supervisions agree in (`lhotse cut trim-to-supervisions` makes a cut of each). Texts and
    alignments are not read. Lengths are measured, but for addresses and commands, whose
    lengths are the manifest's. What cannot be used is left out, counted, and listed in
    OUT/skipped.tsv: files that are missing, sources in memory, cuts that are mixed,
    recordings with transforms such as another speed.

    Args:
        root: the folder of the manifests, or one of them.
        out: the Kaldi directory to write.
        manifests: those to read, where the folder holds more (several parts, cuts beside
            recordings).
        audio: the folder that relative paths in manifests begin in; as in Lhotse the current
            one if not given. They may not lead out of it.
        remote: beginnings of addresses that may be written, such as s3://bucket/; the
            commands that read the audio need them, too.
        allow_pipes: write sources that are shell commands, too; nothing is run here.
        check: decode every file, to find silent and damaged ones; otherwise only
            headers are read.
        jobs: files at a time; all cores if not given.

    Returns:
        What was written.

    Raises:
        UserError: no manifest, one that is damaged, cuts beside recordings, over half a million
            entries that cannot be used, or none that can.
    """
    root = Path(root)
    out = Path(out)
    refuse_file(out)
    places = _Places(Path(audio or "."), Remotes(remote or ()), allow_pipes)
    left_out: Left = []
    spans = _spans(_by_kind(root, manifests), left_out)
    pieces, stated = _pieces(spans, places, left_out)
    if not pieces:
        what, why = left_out[0] if left_out else ("the manifests", "are empty")
        raise UserError(
            f"{root}: none of {len(left_out):,} entries can be used; the first, {what}: {why}"
        )
    return prepare_pieces(
        pieces, root, out, check=check, jobs=jobs, left_out=left_out, stated=stated
    )


def _pieces(
    spans: Iterable[tuple[Span, Recording]], places: _Places, left_out: Left
) -> tuple[list[Piece], dict[str, float]]:
    """Return the utterances, and the length of each address and command among their paths."""
    pieces = []
    stated: dict[str, float] = {}
    seen: set[str] = set()
    for span, recording in spans:
        if span.id in seen:
            leave_out(left_out, span.id, "id twice: rename one")
            continue
        seen.add(span.id)
        try:
            path, channel = places.find(recording, span.channels)
        except WrongEntry as problem:
            leave_out(left_out, span.id, str(problem))
            continue
        stop: float | None = span.start + span.seconds
        if span.start == 0 and abs(span.seconds - recording.seconds) <= WHOLE:
            stop = None
        if isinstance(path, Pipe | Remote):
            stated[path] = recording.seconds
        name = recording.id if channel is None else channel_id(recording.id, channel)
        pieces.append(Piece(span.id, path, span.start, stop, span.labels, name, channel))
    return pieces, stated


def _by_kind(root: Path, manifests: Sequence[Path] | None) -> dict[str, list[Path]]:
    """Return the manifests of recordings, of supervisions and of cuts.

    Raises:
        UserError: there are none, or cuts beside the others.
    """
    found: dict[str, list[Path]] = {"recording": [], "supervision": [], "cut": []}
    for path in _files(root, manifests):
        kind = next((kind_of(entry) for _, entry in entries(path, [])), "other")
        if kind in found:
            found[kind].append(path)
        else:
            print(f"{path}: no recordings, supervisions or cuts: passed over", file=sys.stderr)
    if found["cut"] and (found["recording"] or found["supervision"]):
        raise UserError(
            f"{root}: holds cuts ({found['cut'][0].name}) beside recordings or supervisions; name"
            " those to read: --manifests"
        )
    if not found["cut"] and not found["recording"]:
        raise UserError(
            f"{root}: holds no manifest of recordings or cuts (.jsonl.gz, .jsonl, .json); give the"
            " folder that `lhotse prepare` wrote"
        )
    return found


def _files(root: Path, manifests: Sequence[Path] | None) -> list[Path]:
    """Return the manifests to read: the given ones, `root` itself, or those in it."""
    if manifests is not None:
        return [root / path if (root / path).exists() else path for path in manifests]
    if not root.exists():
        raise UserError(f"{root}: no such directory; give the folder that `lhotse prepare` wrote")
    if not root.is_dir():
        return [root]
    return sorted(path for path in root.iterdir() if path.name.endswith(SUFFIXES))


def _spans(manifests: dict[str, list[Path]], left_out: Left) -> Iterator[tuple[Span, Recording]]:
    """Yield every utterance and its recording."""
    for _, cut in _parsed(manifests["cut"], "cut", cut_of, left_out):
        assert isinstance(cut.recording, Recording)
        yield cut, cut.recording
    recordings: dict[str, Recording] = {}
    for where, recording in _parsed(manifests["recording"], "recording", recording_of, left_out):
        if recording.id in recordings:
            leave_out(left_out, where, f"id twice: {recording.id}")
        recordings.setdefault(recording.id, recording)
    if not manifests["supervision"]:
        for recording in recordings.values():
            yield Span(recording.id, recording, 0.0, recording.seconds, None, {}), recording
    for where, span in _parsed(manifests["supervision"], "supervision", supervision_of, left_out):
        if span.recording in recordings:
            yield span, recordings[span.recording]
        else:
            leave_out(left_out, where, f"no recording: {span.recording}")


def _parsed(
    paths: Sequence[Path], kind: str, parse: Callable[[dict[str, Any]], T], left_out: Left
) -> Iterator[tuple[str, T]]:
    """Yield place and content of the objects of one kind in manifests; others are left out.

    Args:
        paths: of the manifests.
        kind: as `kind_of` names it.
        parse: makes of an object what it describes, or raises WrongEntry.
        left_out: gets an entry for an object that is not used.
    """
    for path in paths:
        for where, entry in entries(path, left_out):
            if kind_of(entry) != kind:
                leave_out(left_out, where, f"wrong line: no {kind}")
                continue
            try:
                parsed = parse(entry)
            except WrongEntry as problem:
                leave_out(left_out, where, str(problem))
                continue
            yield where, parsed


@dataclass(frozen=True, slots=True)
class _Places:
    """Finds what a wav.scp may name of a recording.

    Attributes:
        folder: that relative paths begin in.
        remotes: addresses that are allowed.
        allow_pipes: whether commands are.
    """

    folder: Path
    remotes: Remotes
    allow_pipes: bool

    def find(
        self, recording: Recording, channels: tuple[int, ...] | None
    ) -> tuple[str, int | None]:
        """Return where some channels (None: all) of a recording are: path, address or command, and channel.

        The channel is its place in the file, from 1; None: all of the file's are wanted.

        Raises:
            WrongEntry: there is none that may be used.
        """
        changes = [name for name in recording.transforms if name not in _HARMLESS]
        if changes:
            raise WrongEntry(f"transformed: {', '.join(changes)}; save the audio first")
        wanted = set(channels or ())
        fitting = [
            source
            for source in recording.sources
            if channels is None or wanted & set(source.channels)
        ]
        if len(fitting) != 1:
            number = "several files" if fitting else "no file"
            raise WrongEntry(f"{number}: channels {sorted(wanted) or 'all'} of {recording.id}")
        (source,) = fitting
        if channels is None or wanted == set(source.channels):
            return self._place(source), None
        if len(wanted) > 1:
            raise WrongEntry(
                f"some channels of several: {sorted(wanted)} of {list(source.channels)}; one or all"
                " can be taken"
            )
        return self._place(source), 1 + source.channels.index(*wanted)

    def _place(self, source: Source) -> str:
        place: str = source.place
        if source.kind == "command":
            if not self.allow_pipes:
                raise WrongEntry("shell pipe: refused unless --allow-pipes is given")
            place = Pipe(f"{place.strip()} |")
        elif source.kind not in ("file", "url"):
            raise WrongEntry(f"other source: type {source.kind[:40]}; save the audio to files")
        elif is_address(place):
            place = self.remotes.permit(place)
            if not isinstance(place, Remote):
                raise WrongEntry(f"address: {place[:200]} {refusal(place)}")
        else:
            place = self._file(place)
        obstacle = wav_scp_obstacle(place)
        if obstacle:
            raise WrongEntry(f"{obstacle}: rename it")
        return place

    def _file(self, place: str) -> str:
        """Return the absolute path of a file."""
        if ".." in Path(place).parts and not os.path.isabs(place):
            raise WrongEntry(f"outside the folder of the audio: {place[:200]}")
        try:
            path = os.path.abspath(self.folder / place)
            is_there = os.path.exists(path)
        except ValueError:  # a null byte, or what no file name can hold
            is_there = False
        if not is_there:
            raise WrongEntry(
                f"no such file: {place[:200]}; relative paths begin in {self.folder} (--audio)"
            )
        if is_special(path) or os.path.isdir(path):
            raise WrongEntry(f"not a regular file: {place[:200]}")
        return path


PART = prepare
