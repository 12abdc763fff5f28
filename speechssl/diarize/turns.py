"""Who speaks when: turns, and the RTTM files that hold them.

RTTM (NIST, Rich Transcription Time Marked): `SPEAKER file channel start duration <NA> <NA> speaker
<NA> <NA>`, times in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from speechssl.errors import UserError, writing
from speechssl.files import write_text
from speechssl.regular import read_text

_LATEST = 1e9  # seconds, 30 years: no recording is as long
_MOST_SPEAKERS_TIMES_TURNS = 1_000_000  # of a recording; they become numbers of a matrix


class Turn(NamedTuple):
    """A span in which one speaker speaks.

    Attributes:
        start: seconds.
        stop: seconds.
        speaker: a name without white space.
    """

    start: float
    stop: float
    speaker: str


def rttm_lines(
    recording: str,
    turns: Iterable[Turn],
    channel: int = 1,
    channel_of: Mapping[str, int] | None = None,
) -> list[str]:
    """Return the lines of an RTTM file; white space in the recording's id becomes `_`.

    Args:
        recording: its id.
        turns: who speaks when.
        channel: of the speakers that `channel_of` does not name.
        channel_of: speaker -> channel.
    """
    channels = channel_of or {}
    name = re.sub(r"\s", "_", recording) or "_"
    lines = []
    for turn in turns:
        times = f"{turn.start:.3f} {turn.stop - turn.start:.3f}"
        own = channels.get(turn.speaker, channel)
        lines.append(f"SPEAKER {name} {own} {times} <NA> <NA> {turn.speaker} <NA> <NA>\n")
    return lines


def write_text_file(path: Path, lines: Sequence[str]) -> None:
    """Write lines, whole or not at all; names of files may hold bytes that are not UTF-8."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(lines))


def read_rttm(path: str | Path) -> dict[str, list[Turn]]:
    """Read an RTTM file: recording -> its turns in the order of time. Other lines are passed over.

    Raises:
        UserError: the file cannot be read, a SPEAKER line is not one, or a recording has more speakers
            and turns than can be compared.
    """
    text = read_text(Path(path), "give an RTTM file")
    recordings: dict[str, list[Turn]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        turn = _turn(fields)
        if turn is None:
            raise UserError(
                f"{path}:{number}: not `SPEAKER file channel start duration <NA> <NA> speaker`;"
                " correct the line"
            )
        recordings.setdefault(fields[1], []).append(turn)
    for name, turns in recordings.items():
        speakers = len({turn.speaker for turn in turns})
        if speakers * len(turns) > _MOST_SPEAKERS_TIMES_TURNS:
            raise UserError(
                f"{path}: {name[:80]!r} has {len(turns)} turns of {speakers} speakers, too many to"
                " compare; give turns of people"
            )
    return {name: sorted(turns) for name, turns in recordings.items()}


def _turn(fields: Sequence[str]) -> Turn | None:
    """Return the turn of a SPEAKER line's fields, or None."""
    try:
        start = float(fields[3])
        seconds = float(fields[4])
        speaker = fields[7]
    except (IndexError, ValueError):
        return None
    if not (0 <= start < _LATEST and 0 <= seconds < _LATEST):
        return None
    return Turn(start, start + seconds, speaker)


def seconds_of(turns: Iterable[Turn]) -> Mapping[str, float]:
    """Return speaker -> seconds of speech, in the order of the first turns."""
    total: dict[str, float] = {}
    for turn in turns:
        total[turn.speaker] = total.get(turn.speaker, 0.0) + turn.stop - turn.start
    return total
