"""Reading audio: any format, any rate, any piece of a file, as mono float32.

wav, flac, ogg, opus and mp3 go through libsndfile; m4a, mp4 and aac, and the rare mp3 and flac
files that do not say how long they are, through PyAV (`pip install 'speechssl[av]'`). A piece of a
file is sought, never read from the start, and the sample at `start` is the same one whether the
whole file is read or only the piece: the decoder and the resampler get a little context before and
after it. A path may be the address of a file inside a tar archive (`speechssl.audio.members`).
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from speechssl.audio import members
from speechssl.audio.mp3 import length_is_a_guess
from speechssl.errors import UserError

AV_EXTENSIONS = frozenset({".m4a", ".mp4", ".aac"})
SOUNDFILE_EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
EXTENSIONS = SOUNDFILE_EXTENSIONS | AV_EXTENSIONS

Samples = npt.NDArray[np.float32]
PathLike = str | os.PathLike[str]

_BLOCK = 1 << 20  # samples decoded at a time
_MP3_PREROLL = (
    16384  # samples: after a seek, MP3 needs the bit reservoir of about a dozen earlier frames
)
_AV_PREROLL = 8192  # samples: AAC overlaps frames, and its encoders' delay is below this
_CONTEXT = 0.05  # seconds on each side of a piece for the resampler's filter
_SHORTFALL = 0.25  # seconds that a lossy decoder may deliver less than its header says


class Pipe(str):
    """A shell command whose output is an audio file (a wav.scp entry that ends with `|`).

    Only `read_manifest(..., allow_pipes=True)` makes one: the type carries the permission to run
    it.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file's header says: sampling `rate` in Hz, `channels`, and `frames` (samples a
    channel).
    """

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.rate


def info(path: PathLike) -> AudioInfo:
    """Rate, channels and length of an audio file, from its header wherever the header knows.

    Raises UserError if the file is missing, a directory, not audio, or holds no samples.
    """
    with _open(path) as reader:
        frames = reader.frames
        if frames is None:
            frames = sum(len(block) for block in reader.blocks(0, None))
        return _not_empty(path, AudioInfo(reader.rate, reader.channels, frames))


def check(path: PathLike) -> tuple[AudioInfo, float]:
    """Decode a whole file in bounded memory: its true length, and its peak (full scale is 1).

    Raises UserError as `info` does, and if the file is truncated or holds NaN or infinite samples.
    """
    with _open(path) as reader:
        frames, peak = 0, 0.0
        for block in reader.blocks(0, None):
            _finite(path, block, frames / reader.rate)
            frames += len(block)
            peak = max(peak, float(np.abs(block).max()))
        found = _not_empty(path, AudioInfo(reader.rate, reader.channels, frames))
        _not_truncated(path, reader, 0, None, frames)
        return found, peak


def read(path: PathLike, rate: int, start: float = 0.0, stop: float | None = None) -> Samples:
    """Samples (T,) float32 of `path` from `start` to `stop` seconds, mixed to mono, resampled to
    `rate` Hz.

    The result holds the samples round(start * rate) to round(stop * rate) of the whole file, so
    neighbouring pieces tile. `stop` None, or beyond the end, means the end. Integer formats are
    scaled to [-1, 1). Raises UserError if the file is missing, a directory, not audio, truncated or
    empty, if a sample that was asked for is NaN or infinite, and if `start` lies beyond the end or
    `stop` does not lie behind `start`.
    """
    if not (math.isfinite(start) and start >= 0 and (stop is None or stop > start)):
        raise UserError(f"{path}: cannot read from {start:g} s to {stop} s; give 0 <= start < stop")
    with _open(path) as reader:
        piece = _Piece.of(reader.rate, rate, start, stop)
        frames = reader.frames
        if frames == 0 or (frames is not None and start * reader.rate >= frames):
            raise _beyond(path, start, frames, reader.rate)
        blocks = list(reader.blocks(piece.first, piece.count))
        samples = np.concatenate(blocks) if len(blocks) != 1 else blocks[0]
        _not_truncated(path, reader, piece.first, piece.count, len(samples))
        _finite(path, samples, piece.first / reader.rate)
        samples = piece.cut(_resample(samples, reader.rate, rate))
        if not len(samples):
            raise _beyond(path, start, frames, reader.rate)
        return np.ascontiguousarray(samples)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Which source samples to read (`first`, `count`), and what to keep then (`skip`, `keep`)."""

    first: int
    count: int | None
    skip: int
    keep: int | None

    @classmethod
    def of(cls, source: int, rate: int, start: float, stop: float | None) -> _Piece:
        """Source and target samples coincide every `a` source (`b` target) samples: cut there."""
        begin = round(start * rate)
        end = None if stop is None else max(begin + 1, round(stop * rate))
        if source == rate:
            return cls(begin, None if end is None else end - begin, 0, None)
        common = math.gcd(source, rate)
        a, b = source // common, rate // common
        context = math.ceil(_CONTEXT * max(source, source * source / rate) / a)
        k = max(0, begin // b - context)
        count = None if end is None else (math.ceil(end / b) + context - k) * a
        return cls(k * a, count, begin - k * b, None if end is None else end - begin)

    def cut(self, samples: Samples) -> Samples:
        return samples[self.skip : None if self.keep is None else self.skip + self.keep]


def _resample(samples: Samples, source: int, rate: int) -> Samples:
    """(T,) at `source` Hz to about (T * rate / source,) at `rate` Hz (soxr HQ, as in librosa)."""
    if source == rate or not len(samples):
        return samples
    import soxr

    resampled: Samples = soxr.resample(samples, source, rate, quality="HQ").astype(
        np.float32, copy=False
    )
    return resampled


class _SoundFileReader:
    """libsndfile behind the two things asked of a reader: a header, and mono blocks from a
    position.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        self.file = file
        self.rate: int = file.samplerate
        self.channels: int = file.channels
        # A FLAC stream may leave its length open: libsndfile says about 2**63, and cannot read its
        # end.
        self.frames: int | None = file.frames if 0 <= file.frames < 1 << 48 else None

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        preroll = min(first, _MP3_PREROLL) if self.file.format == "MP3" else 0
        if first:
            self.file.seek(first - preroll)
        left = sys.maxsize if count is None else count + preroll
        while left > 0:
            block = self.file.read(min(left, _BLOCK), dtype="float32", always_2d=True)
            if not len(block):
                return
            left -= len(block)
            fresh = _mono(block[preroll:].T)
            preroll = max(0, preroll - len(block))
            if len(fresh):
                yield fresh


class _AvReader:
    """PyAV behind the same two things. Positions come from the frames' time stamps."""

    def __init__(self, container: Any, av: Any) -> None:
        self.container, self.av = container, av
        if not container.streams.audio:
            raise ValueError("it has no audio stream")
        self.stream = container.streams.audio[0]
        self.rate: int = self.stream.codec_context.sample_rate
        self.channels: int = self.stream.codec_context.channels
        # A bare AAC stream (ADTS) has no index: its duration is a guess and seeking in it is not
        # exact.
        self.indexed = "mp4" in container.format.name
        duration = self.stream.duration if self.indexed else None
        self.frames: int | None = None
        if duration is not None:
            self.frames = round(float(duration * self.stream.time_base) * self.rate)

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        if self.indexed and first > _AV_PREROLL:
            seconds = (first - _AV_PREROLL) / self.rate
            self.container.seek(int(seconds / self.stream.time_base), stream=self.stream)
        planar = self.av.AudioResampler(format="fltp")
        end = sys.maxsize if count is None else first + count
        position = 0 if not self.indexed else None
        for decoded in self.container.decode(self.stream):
            for frame in planar.resample(decoded):
                if position is None:
                    position = round(float((frame.pts or 0) * frame.time_base) * self.rate)
                samples = _mono(frame.to_ndarray())
                wanted = samples[max(0, first - position) : max(0, end - position)]
                position += len(samples)
                if len(wanted):
                    yield wanted
                if position >= end:
                    return


def _mono(planar: npt.NDArray[np.float32]) -> Samples:
    """Return the mean of the channels: (channels, T) to (T,)."""
    mono: Samples = planar.mean(axis=0, dtype=np.float32) if len(planar) > 1 else planar[0]
    return mono


@contextmanager
def _open(path: PathLike) -> Iterator[_SoundFileReader | _AvReader]:
    """Open `path` with the library that knows its format; whatever that raises becomes a
    UserError.
    """
    name = os.fspath(path)
    member = members.parse(name)
    if member is not None:
        with _open_member(member) as reader:
            yield reader
        return
    if isinstance(path, Pipe):
        source: Any = io.BytesIO(_run(path))
        opened: Any = _sound_file(source, name)
    elif name.rstrip().endswith("|"):
        raise UserError(
            f"{name}: is a shell pipe and was refused; allow it with --allow-pipes if you trust it"
        )
    else:
        source = name
        extension = os.path.splitext(name)[1].lower()
        needs_av = extension in AV_EXTENSIONS or (extension == ".mp3" and _length_is_a_guess(name))
        opened = _av_file(source, name) if needs_av else _sound_file(os.fsencode(name), name)
    with opened as reader:
        if isinstance(reader, _AvReader) or reader.frames is not None:
            yield reader
            return
    with _av_file(source, name) as reader:
        yield reader


@contextmanager
def _open_member(member: members.Member) -> Iterator[_SoundFileReader | _AvReader]:
    name, file = str(member), member.open()
    try:
        opened = _av_file if member.extension.lower() in AV_EXTENSIONS else _sound_file
        with opened(file, name) as reader:
            yield reader
    except UserError:
        lost = getattr(
            file, "error", None
        )  # what could not be read of the archive, if that is the reason
        if lost is None:
            raise
        raise lost from None


def _length_is_a_guess(name: str) -> bool:
    try:
        return length_is_a_guess(name)
    except OSError as error:
        raise _diagnose(name, error) from error


@contextmanager
def _sound_file(source: Any, name: str) -> Iterator[_SoundFileReader]:
    try:
        with soundfile.SoundFile(source) as file:
            yield _SoundFileReader(file)
    except (
        soundfile.SoundFileError,
        RuntimeError,
        TypeError,
        ValueError,
        OSError,
        MemoryError,
    ) as error:
        raise _diagnose(name, error) from error


@contextmanager
def _av_file(source: Any, name: str) -> Iterator[_AvReader]:
    try:
        import av
    except ImportError as error:
        raise UserError(f"{name}: reading it needs PyAV; pip install 'speechssl[av]'") from error
    try:
        with av.open(source) as container:
            yield _AvReader(container, av)
    except (av.FFmpegError, ValueError, OSError, MemoryError) as error:
        raise _diagnose(name, error) from error


def _run(command: Pipe) -> bytes:
    done = subprocess.run(
        command.strip().removesuffix("|"), shell=True, capture_output=True, check=False
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UserError(
            f"{command}: the command failed with exit code {done.returncode} ({last[0]})"
        )
    return done.stdout


def _diagnose(name: str, error: Exception) -> UserError:
    """One line for a file that could not be opened or decoded."""
    if not isinstance(error, UserError) and not name.endswith("|") and members.parse(name) is None:
        if not os.path.exists(name):
            return UserError(f"{name}: no such file; check the path")
        if os.path.isdir(name):
            return UserError(f"{name}: is a directory, not an audio file; give a file")
        if not os.access(name, os.R_OK):
            return UserError(f"{name}: permission denied; make the file readable")
        if os.path.getsize(name) == 0:
            return UserError(f"{name}: is empty (0 bytes); remove or replace it")
    detail = " ".join(str(getattr(error, "error_string", "") or error).split()).rstrip(".")
    return UserError(
        f"{name}: corrupt, or not audio that can be read ({detail}); remove or replace it"
    )


def _not_empty(path: PathLike, found: AudioInfo) -> AudioInfo:
    if found.frames <= 0 or found.rate <= 0:
        raise UserError(f"{path}: is empty (no samples); remove or replace it")
    return found


def _not_truncated(
    path: PathLike, reader: _SoundFileReader | _AvReader, first: int, count: int | None, got: int
) -> None:
    """Refuse a read that ends well before the header says: a damaged file, not a decoder's
    rounding.
    """
    if reader.frames is None:
        return
    due = reader.frames - first if count is None else min(count, reader.frames - first)
    if due - got > _SHORTFALL * reader.rate:
        seconds = (first + got) / reader.rate
        raise UserError(
            f"{path}: truncated: its header promises {reader.frames / reader.rate:.2f} s, decoding"
            f" stops at {seconds:.2f} s; replace it"
        )


def _finite(path: PathLike, samples: Samples, offset: float) -> None:
    if not np.isfinite(samples).all():
        raise UserError(
            f"{path}: holds NaN or infinite samples (behind {offset:.2f} s); repair or remove it"
        )


def _beyond(path: PathLike, start: float, frames: int | None, rate: int) -> UserError:
    if frames == 0 or start == 0:
        return UserError(f"{path}: is empty (no samples); remove or replace it")
    length = "its end" if frames is None else f"its end at {frames / rate:.3f} s"
    return UserError(f"{path}: start {start:g} s lies beyond {length}; correct the segment")
