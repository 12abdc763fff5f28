"""Reading audio: any format, any rate, any piece of a file, as mono float32.

wav, flac, ogg, opus, mp3 and aiff go through libsndfile; m4a, mp4, webm, wma, amr and whatever else
FFmpeg reads, and the rare mp3 and flac files that do not say how long they are, through PyAV (`pip
install 'speechssl[av]'`). The content decides, not the name. A piece
of a file is sought, never read from the start, and the sample at `start` is the same one whether
the whole file is read or only the piece: the decoder and the resampler get a little context before
and after it. A path may be the address of a file inside a tar archive (`speechssl.audio.members`)
or a shell command that was allowed (`speechssl.audio.pipes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from speechssl.audio.opening import PathLike, open_audio
from speechssl.audio.readers import AV_EXTENSIONS, SOUNDFILE_EXTENSIONS, Reader, Samples
from speechssl.audio.resampling import Excerpt, resample
from speechssl.audio.silence import is_silent_range
from speechssl.errors import UserError

EXTENSIONS = SOUNDFILE_EXTENSIONS | AV_EXTENSIONS
"""Endings, in lower case and with their dot, of files that are always taken for audio.

Files with other endings are looked into (`kinds.kind_of`).
"""

_SHORTFALL = 0.25  # seconds that a lossy decoder may deliver less than its header says
_SURPLUS = 1 << 24  # samples that a file may hold beyond what its header says, read at once (64 MB)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Rate and length of an audio file.

    Attributes:
        rate: sampling rate, Hz.
        channels: number of channels.
        frames: samples of a channel.
    """

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.rate


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds when all of it is decoded.

    Attributes:
        info: rate, channels, and the length that was decoded.
        lowest: smallest sample of the channel or mono mix (full scale is -1 to 1).
        highest: its largest sample.
    """

    info: AudioInfo
    lowest: float
    highest: float

    @property
    def peak(self) -> float:
        """Largest magnitude of a sample; full scale is 1."""
        return max(-self.lowest, self.highest)

    @property
    def is_silent(self) -> bool:
        """True if the samples span less than `speechssl.audio.silence.THRESHOLD`."""
        return is_silent_range(self.lowest, self.highest)


def info(path: PathLike) -> AudioInfo:
    """Return rate, channels and length of an audio file, from its header wherever the header knows.

    Raises:
        UserError: the file is missing, a directory, not audio, or holds no samples.
    """
    with open_audio(path) as reader:
        frames = reader.frames
        if frames is None:
            frames = sum(len(block) for block in reader.blocks(0, None, None))
        _refuse_empty(path, reader.rate, frames)
        return AudioInfo(reader.rate, reader.channels, frames)


def check(path: PathLike, channel: int | None = None) -> Content:
    """Decode a whole file, in bounded memory, and return its true length and range.

    Args:
        path: as for `read`.
        channel: which channel, from 1; None: the mean of all.

    Raises:
        UserError: as `info`, and the file is truncated or holds NaN or infinite samples, or there is
            no such channel.
    """
    with open_audio(path) as reader:
        _refuse_missing_channel(path, reader, channel)
        frames = 0
        lowest = math.inf
        highest = -math.inf
        for block in reader.blocks(0, None, channel):
            _refuse_non_finite(path, block, frames / reader.rate)
            frames += len(block)
            lowest = min(lowest, float(block.min()))
            highest = max(highest, float(block.max()))
        _refuse_empty(path, reader.rate, frames)
        _refuse_truncated(path, reader, Excerpt(0, None, 0, None), frames)
        return Content(AudioInfo(reader.rate, reader.channels, frames), lowest, highest)


def are_channels_alike(path: PathLike) -> bool:
    """Return True if all channels of a file hold the same samples, as of one microphone.

    Decoding stops at the first block that differs.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    for channel in range(2, info(path).channels + 1):
        with open_audio(path) as first, open_audio(path) as other:
            blocks = zip(first.blocks(0, None, 1), other.blocks(0, None, channel), strict=True)
            if not all(np.array_equal(one, another) for one, another in blocks):
                return False
    return True


def read(
    path: PathLike,
    rate: int,
    start: float = 0.0,
    stop: float | None = None,
    channel: int | None = None,
) -> Samples:
    """Read a piece of an audio file.

    Args:
        path: a path, the address of a member of a tar archive, or a `Pipe`.
        rate: wanted sampling rate, Hz; the file is resampled if it has another.
        start: where the piece begins, seconds.
        stop: where it ends, seconds; None, or what lies beyond the end, means the end.
        channel: which channel, from 1; None: the mean of all.

    Returns:
        Samples (T,) of the channel or mix: those from round(start * rate) to round(stop * rate) of the
        whole file, so neighbouring pieces tile. Integer formats are scaled to [-1, 1).

    Raises:
        UserError: the file is missing, a directory, not audio, truncated or empty; a sample that
            was asked for is NaN or infinite; `start` lies beyond the end, `stop` does not lie behind
            `start`, or there is no such channel.
    """
    if not (math.isfinite(start) and start >= 0 and (stop is None or stop > start)):
        raise UserError(f"{path}: cannot read from {start:g} s to {stop} s; give 0 <= start < stop")
    with open_audio(path) as reader:
        _refuse_missing_channel(path, reader, channel)
        frames = reader.frames
        if frames == 0 or (frames is not None and start * reader.rate >= frames):
            raise _start_beyond_end(path, start, reader)
        excerpt = Excerpt.plan(reader.rate, rate, start, stop)
        samples = _read_excerpt(path, reader, excerpt, channel)
        if not len(samples):
            raise _start_beyond_end(path, start, reader)
        _refuse_truncated(path, reader, excerpt, len(samples))
        _refuse_non_finite(path, samples, excerpt.first / reader.rate)
        samples = excerpt.cut(resample(samples, reader.rate, rate))
        if not len(samples):
            raise _start_beyond_end(path, start, reader)
        return np.ascontiguousarray(samples)


def _read_excerpt(path: PathLike, reader: Reader, excerpt: Excerpt, channel: int | None) -> Samples:
    """Return the samples (T,) of an excerpt at the file's own rate.

    Args:
        path: for messages.
        reader: the file.
        excerpt: what to read.
        channel: which channel, from 1; None: the mean of all.

    Raises:
        UserError: they are far more than the header says, as in a file made to fill memory.
    """
    most = math.inf if reader.frames is None else reader.frames - excerpt.first + _SURPLUS
    blocks: list[Samples] = []
    got = 0
    for block in reader.blocks(excerpt.first, excerpt.count, channel):
        blocks.append(block)
        got += len(block)
        if got > most:
            promised = reader.frames / reader.rate if reader.frames else 0.0
            raise UserError(
                f"{path}: its header promises {promised:.2f} s, but it holds over"
                f" {got / reader.rate:.0f} s; write it again"
            )
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _refuse_empty(path: PathLike, rate: int, frames: int) -> None:
    if frames <= 0 or rate <= 0:
        raise UserError(f"{path}: is empty (no samples); remove or replace it")


def _refuse_missing_channel(path: PathLike, reader: Reader, channel: int | None) -> None:
    if channel is not None and not 1 <= channel <= reader.channels:
        count = "1 channel" if reader.channels == 1 else f"{reader.channels} channels"
        raise UserError(f"{path}: has {count}, so no channel {channel}; channels count from 1")


def _refuse_truncated(path: PathLike, reader: Reader, excerpt: Excerpt, got: int) -> None:
    """Refuse a file that ends well before its header says; a decoder's rounding is allowed.

    Args:
        path: for the message.
        reader: the file's header.
        excerpt: what was asked for.
        got: samples that were decoded.
    """
    if reader.frames is None:
        return
    due = reader.frames - excerpt.first
    if excerpt.count is not None:
        due = min(due, excerpt.count)
    if due - got > _SHORTFALL * reader.rate:
        promised = reader.frames / reader.rate
        seconds = (excerpt.first + got) / reader.rate
        raise UserError(
            f"{path}: truncated: its header promises {promised:.2f} s, decoding stops at"
            f" {seconds:.2f} s; replace it"
        )


def _refuse_non_finite(path: PathLike, samples: Samples, offset: float) -> None:
    if not np.isfinite(samples).all():
        raise UserError(
            f"{path}: holds NaN or infinite samples (behind {offset:.2f} s); repair or remove it"
        )


def _start_beyond_end(path: PathLike, start: float, reader: Reader) -> UserError:
    if reader.frames == 0 or start == 0:
        return UserError(f"{path}: is empty (no samples); remove or replace it")
    end = "its end"
    if reader.frames is not None:
        end = f"its end at {reader.frames / reader.rate:.3f} s"
    return UserError(f"{path}: start {start:g} s lies beyond {end}; correct the segment")
