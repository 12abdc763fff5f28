"""Long and stereo recordings to utterances: channels, speech, windows."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from speechssl import parts
from speechssl.audio import reading
from speechssl.audio.pipes import Pipe
from speechssl.audio.remotes import Remote
from speechssl.audio.streaming import blocks
from speechssl.data.kaldi import MOST_CHANNELS
from speechssl.data.manifest import Utterance, channel_id
from speechssl.data.vectors.format import Span
from speechssl.embed.batches import Failure, durations
from speechssl.embed.windows import check_window, window_spans
from speechssl.errors import UserError
from speechssl.interfaces import SpeechDetector
from speechssl.pools import map_ahead
from speechssl.progress import counted
from speechssl.text import plural

MIX = "mix"
EACH = "each"
FIRST = "first"


@dataclass(frozen=True)
class Cutting:
    """How recordings become utterances.

    Attributes:
        channels: `mix` (their mean), `each` (every channel an utterance of its own), `first`, or a
            number from 1.
        vad: which part of `vad/` finds the speech; None: all counts.
        window: length of a window, seconds; None: a recording is one utterance.
        hop: from one window to the next, seconds; None: half a window.
    """

    channels: str = MIX
    vad: str | None = None
    window: float | None = None
    hop: float | None = None

    def check(self) -> None:
        """Raise UserError if these settings cannot be."""
        check_channels(self.channels)
        if self.window is not None:
            check_window(self.window, self.step)
        elif self.hop is not None:
            raise UserError("embed: a hop needs a window; give both, such as --window 3 --hop 1.5")
        if self.vad is not None:
            parts.find("vad", self.vad)

    @property
    def step(self) -> float:
        """Seconds from one window to the next."""
        return self.hop or (self.window or 0.0) / 2


@dataclass
class Cut:
    """What recordings were cut into.

    Attributes:
        utterances: in the order of the recordings, and of time.
        failures: recordings that could not be cut.
        spans: id -> where it lies, for utterances that are windows or channels.
    """

    utterances: list[Utterance] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    spans: dict[str, Span] = field(default_factory=dict)


def cut(recordings: Sequence[Utterance], how: Cutting, readers: int | None = None) -> Cut:
    """Cut recordings into utterances.

    An id gets `-ch2` behind it for a channel of `each`, and `-START-STOP` in milliseconds for a
    window. Without windows, `vad` leaves an utterance whole: only its speech is embedded.

    Args:
        recordings: files, or segments of them.
        how: what to cut.
        readers: threads that read headers; None: 2.

    Returns:
        The utterances. With windows, or `vad`, every recording's length is known afterwards.
    """
    how.check()
    result = Cut()
    by_channel: list[tuple[str, Utterance]] = []
    for recording in recordings:
        try:
            by_channel += [(recording.id, one) for one in channels_of(recording, how.channels)]
        except UserError as error:
            result.failures.append(Failure.of(recording, str(error)))
    lengths: Iterable[float | Failure] = [0.0] * len(by_channel)
    if how.window is not None:
        lengths = durations([utterance for _, utterance in by_channel], readers or 2)
    known: list[tuple[str, Utterance]] = []
    for (name, utterance), seconds in zip(by_channel, lengths, strict=True):
        if isinstance(seconds, Failure):
            result.failures.append(seconds)
            continue
        known.append((name, replace(utterance, seconds=seconds or utterance.seconds)))
    speech: Iterable[list[tuple[float, float]] | Failure | None] = [None] * len(known)
    if how.vad is not None:
        looked = speech_of((utterance for _, utterance in known), how.vad, readers or 2)
        speech = counted(looked, len(known), "find speech", "recordings")
    for (name, utterance), spans in zip(known, speech, strict=True):
        if isinstance(spans, Failure):
            result.failures.append(spans)
            continue
        _add(result, name, utterance, spans, how)
    return result


def speech_of(
    utterances: Iterable[Utterance], vad: str, readers: int, ahead: int = 64
) -> Iterator[list[tuple[float, float]] | Failure]:
    """Yield the spans of speech of each utterance, or why there are none; threads are ahead.

    Args:
        utterances: what is looked at.
        vad: which part of `vad/` finds the speech. Each thread has one of its own: a network has
            a state.
        readers: threads.
        ahead: utterances that they are ahead at most.
    """
    here = threading.local()

    def spans_of(utterance: Utterance) -> list[tuple[float, float]] | Failure:
        if not hasattr(here, "detector"):
            here.detector = parts.build("vad", {"name": vad})
        try:
            return find_speech(utterance, here.detector)
        except UserError as error:
            return Failure.of(utterance, str(error))

    # What cannot be built is one error, not one for each recording.
    parts.build("vad", {"name": vad})
    yield from map_ahead(spans_of, utterances, readers, ahead)


def check_channels(channels: str) -> None:
    """Raise UserError unless `channels` is one of the words of `Cutting`, or a number from 1."""
    number = channels.isascii() and channels.isdecimal() and 1 <= int(channels) <= MOST_CHANNELS
    if channels not in (MIX, EACH, FIRST) and not number:
        raise UserError(f"channels {channels!r}: give {MIX}, {EACH}, {FIRST} or a number from 1")


def channels_of(recording: Utterance, channels: str) -> list[Utterance]:
    """Return the utterances of a recording; one that is a channel already stays as it is.

    Raises:
        UserError: `channels` is `each`, and the recording cannot be read.
    """
    if channels == MIX or recording.channel is not None:
        return [recording]
    if channels == EACH:
        count = reading.info(recording.path).channels
        if count == 1:
            return [recording]
        return [
            replace(recording, id=channel_id(recording.id, channel), channel=channel)
            for channel in range(1, count + 1)
        ]
    return [replace(recording, channel=1 if channels == FIRST else int(channels))]


def count_mixed(recordings: Sequence[Utterance]) -> int:
    """Return how many of some recordings have several channels; files that cannot be read have none."""
    count = 0
    for recording in recordings:
        if recording.channel is not None or isinstance(recording.path, Pipe | Remote):
            continue
        try:
            count += reading.info(recording.path).channels > 1
        except UserError:
            continue
    return count


PREPARED = "give what `speechssl prepare folder CALLS OUT --channels each` makes"
"""What to do about calls with one side on each channel."""


def warn_of_mixing(recordings: Sequence[Utterance], remedy: str = PREPARED) -> None:
    """Warn if there are recordings whose channels are mixed; `remedy` says what to do about calls."""
    mixed = count_mixed(recordings)
    if mixed:
        warnings.warn(
            f"{plural(mixed, 'recording')} with several channels, which are mixed: of calls with one side"
            f" on each, {remedy}",
            stacklevel=3,
        )


def find_speech(utterance: Utterance, detector: SpeechDetector) -> list[tuple[float, float]]:
    """Return the spans of speech of an utterance, in seconds of its file.

    Raises:
        UserError: the file cannot be read, or there is no speech in it.
    """
    found = detector.find(
        blocks(
            utterance.path,
            detector.sample_rate,
            utterance.start,
            utterance.stop,
            utterance.channel,
        )
    )
    if not found:
        raise UserError(f"{utterance.path}: no speech was found; take another --vad, or remove it")
    return [(start + utterance.start, stop + utterance.start) for start, stop in found]


def _add(
    result: Cut,
    recording: str,
    utterance: Utterance,
    speech: list[tuple[float, float]] | None,
    how: Cutting,
) -> None:
    """Add an utterance, or its windows.

    Args:
        result: what is added to.
        recording: id of the recording.
        utterance: with its length, if there are windows.
        speech: its spans of speech, or None: all is.
        how: what to cut.
    """
    if how.window is None:
        if speech is not None:
            utterance = replace(utterance, speech=tuple(speech))
        result.utterances.append(utterance)
        return
    whole = (utterance.start, utterance.start + utterance.seconds)
    for first, last in [whole] if speech is None else speech:
        for start, stop in window_spans(first, last, how.window, how.step):
            name = f"{utterance.id}-{round(start * 1000):08d}-{round(stop * 1000):08d}"
            window = replace(utterance, id=name, start=start, stop=stop, seconds=stop - start)
            result.utterances.append(window)
            result.spans[name] = Span(recording, start, stop, utterance.channel)
