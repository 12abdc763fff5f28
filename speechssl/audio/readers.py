"""The two libraries that decode audio, behind one interface: a header, and samples of one channel
or of the mix of all, from a position.

libsndfile reads wav, flac, ogg, opus, mp3, aiff and a few more; PyAV (`pip install
'speechssl[av]'`), which is FFmpeg, all others: m4a, mp4, webm, mkv, wma, amr, 3gp, aac ... `opening`
chooses between them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

SOUNDFILE_EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
AV_EXTENSIONS = frozenset(
    {
        *{".m4a", ".m4b", ".mp4", ".aac", ".3gp", ".mov"},
        *{".webm", ".mkv", ".mka", ".wma", ".wmv", ".amr", ".awb", ".avi", ".flv", ".ac3"},
    }
)
"""Endings that mean sound whatever is in the file. Others are known by their content (`kinds`)."""

Samples = npt.NDArray[np.float32]

_BLOCK = 1 << 20  # samples decoded at a time, of all channels together
# Samples to decode before the first one that counts, after a seek:
_MP3_PREROLL = 16384  # MP3 needs the bit reservoir of about a dozen earlier frames
_AV_PREROLL = 8192  # AAC overlaps frames, and its encoders' delay is below this

_TIMED_FORMATS = frozenset(
    {
        *{"asf", "ape", "au", "avi", "caf", "dsf", "flac", "flv", "matroska", "mov", "mpc8", "mxf"},
        *{"nut", "tta", "w64", "wav", "webm", "wv"},
    }
)
"""FFmpeg's names of containers with time stamps, or sizes, that say where a sample is.

Bare streams (AAC, AMR, AC-3, MPEG) have none: there FFmpeg guesses the length, and does not seek
exactly.
"""

_SLOWEST = 1 / 50
"""Seconds that a byte can hold: codecs of speech need 75 bytes a second and more.

What a header promises beyond that is not believed, and the samples are counted.
"""


class Reader(Protocol):
    """An open audio file.

    Attributes:
        rate: sampling rate, Hz.
        channels: number of channels.
        frames: samples of a channel according to the header, or None if the header does not know.
    """

    rate: int
    channels: int
    frames: int | None

    def blocks(self, first: int, count: int | None, channel: int | None) -> Iterator[Samples]:
        """Yield blocks (T,), `count` samples from sample `first` on.

        Fewer come if the file ends before; None means all to the end.

        Args:
            first: index of the first sample.
            count: number of samples.
            channel: which channel, from 1; None: the mean of all.
        """
        ...


class ForwardSoundFile(soundfile.SoundFile):  # type: ignore[misc]  # it is not typed
    """A file that may be sought, but says that it cannot be.

    Otherwise soundfile seeks to where it is after every read: a sixth of the time of reading Opus.
    """

    def seekable(self) -> bool:
        """Return False."""
        return False

    def can_be_sought(self) -> bool:
        """Return whether it may; GSM and the ADPCM of telephones are only read from their beginning."""
        return bool(super().seekable())


class SoundFileReader:
    """A file opened with libsndfile."""

    def __init__(self, file: ForwardSoundFile) -> None:
        self.file = file
        self.rate: int = file.samplerate
        self.channels: int = file.channels
        self.frames: int | None = None
        # A FLAC stream may leave its length open: libsndfile then says about 2**63, and cannot read
        # its end.
        if 0 <= file.frames < 1 << 48:
            self.frames = file.frames

    def blocks(
        self, first: int, count: int | None, channel: int | None = None
    ) -> Iterator[Samples]:
        """Yield blocks of samples; see `Reader`."""
        preroll = min(first, _MP3_PREROLL) if self.file.format == "MP3" else 0
        if not self.file.can_be_sought():
            preroll = first
        if first > preroll:
            self.file.seek(first - preroll)
        left = sys.maxsize if count is None else preroll + count
        if self.frames is not None:
            left = min(left, self.frames - first + preroll)
        most = max(1, _BLOCK // self.channels)
        while left > 0:
            block = self.file.read(min(left, most), dtype="float32", always_2d=True)
            if not len(block):
                return
            left -= len(block)
            samples = one_channel(block[preroll:].T, channel)
            preroll = max(0, preroll - len(block))
            if len(samples):
                yield samples


class AvReader:
    """A file opened with PyAV; positions come from the time stamps of its frames.

    Where a container's time stamps are coarse (a millisecond in Matroska and ASF), so is a position
    that was sought.
    """

    def __init__(self, container: Any, av: Any) -> None:
        if not container.streams.audio:
            raise ValueError("it has no audio stream")
        self.container = container
        self.av = av
        self.stream = container.streams.audio[0]
        if self.stream.codec_context is None:
            raise ValueError("its coding is unknown")
        self.rate: int = self.stream.codec_context.sample_rate
        self.channels: int = self.stream.codec_context.channels
        for stream in container.streams:
            if stream.index != self.stream.index:
                # Pictures are not even taken out of the container (PyAV 18; before, at some cost).
                with suppress(AttributeError, TypeError, ValueError):
                    stream.discard = av.stream.Discard.all
        self.is_timed = not _TIMED_FORMATS.isdisjoint(container.format.name.split(","))
        self.frames: int | None = None
        seconds = self._seconds()
        if seconds is not None and seconds <= container.size * _SLOWEST + 1:
            self.frames = round(seconds * self.rate)

    def _seconds(self) -> float | None:
        """Return the length of the audio stream where the header knows it."""
        if not self.is_timed:
            return None
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        if self.container.duration and not self.container.streams.video:
            return float(self.container.duration / self.av.time_base)
        return None

    def blocks(
        self, first: int, count: int | None, channel: int | None = None
    ) -> Iterator[Samples]:
        """Yield blocks of samples; see `Reader`."""
        stop = sys.maxsize if count is None else first + count
        for position, samples in self._decoded(first):
            wanted = samples[:, max(0, first - position) : max(0, stop - position)]
            if wanted.shape[1]:
                yield one_channel(wanted, channel)
            if position + samples.shape[1] >= stop:
                return

    def _decoded(self, first: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield (position, samples (C, T)) of consecutive frames, `first` or before it at the start.

        Sample 0 is the first one that is decoded, whatever its time stamp. The first frame after a
        seek may lie behind what was sought (an index with gaps); then the file is decoded from its
        beginning.
        """
        target = first - _AV_PREROLL
        if not self.is_timed or target <= 0:
            yield from self._frames(0)
            return
        begin = next((frame.pts for frame in self._decoded_frames() if frame), None) or 0
        self.container.seek(
            begin + int(target / self.rate / self.stream.time_base), stream=self.stream
        )
        frames = self._frames(None, begin)
        earliest = next(frames, None)
        if earliest is not None and earliest[0] <= first:
            yield earliest
            yield from frames
            return
        self.container.seek(begin, stream=self.stream)
        yield from self._frames(0)

    def _frames(
        self, position: int | None, begin: int = 0
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Decode from where the container is.

        Args:
            position: of the next sample; None: its time stamp tells it.
            begin: time stamp of sample 0.
        """
        # Rate and channels may change within a stream: what comes has those of its header.
        to_planar_float = self.av.AudioResampler(
            format="fltp", layout=self.stream.codec_context.layout, rate=self.rate
        )
        for decoded in self._decoded_frames():
            if position is None and decoded is not None:
                ticks = (decoded.pts or 0) - begin
                position = round(float(ticks * decoded.time_base) * self.rate)
            for frame in to_planar_float.resample(decoded):
                samples = frame.to_ndarray()
                yield position or 0, samples
                position = (position or 0) + samples.shape[1]

    def _decoded_frames(self) -> Iterator[Any]:
        """Yield decoded frames, and None after the last one: the resampler gives its rest."""
        yield from self.container.decode(self.stream)
        yield None


def one_channel(channels: npt.NDArray[np.float32], channel: int | None) -> Samples:
    """Return channel number `channel` (from 1) of (C, T), or the mean (T,) of all if it is None."""
    if channel is not None:
        wanted: Samples = channels[channel - 1]
        return wanted
    mono: Samples = channels[0]
    if len(channels) > 1:
        mono = channels.mean(axis=0, dtype=np.float32)
    return mono
