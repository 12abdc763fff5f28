"""The two libraries that decode audio, behind one interface: a header, and mono samples from a
position.

libsndfile reads wav, flac, ogg, opus, mp3 and aiff; PyAV (`pip install 'speechssl[av]'`) reads m4a,
mp4 and aac. `opening` chooses between them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

SOUNDFILE_EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
AV_EXTENSIONS = frozenset({".m4a", ".mp4", ".aac"})

Samples = npt.NDArray[np.float32]

_BLOCK = 1 << 20  # samples decoded at a time, of all channels together
# Samples to decode before the first one that counts, after a seek:
_MP3_PREROLL = 16384  # MP3 needs the bit reservoir of about a dozen earlier frames
_AV_PREROLL = 8192  # AAC overlaps frames, and its encoders' delay is below this


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

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        """Yield blocks (T,) of the mono mix, `count` samples from sample `first` on.

        Fewer come if the file ends before; None means all to the end.
        """
        ...


class SoundFileReader:
    """A file opened with libsndfile."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self.file = file
        self.rate: int = file.samplerate
        self.channels: int = file.channels
        self.frames: int | None = None
        # A FLAC stream may leave its length open: libsndfile then says about 2**63, and cannot read
        # its end.
        if 0 <= file.frames < 1 << 48:
            self.frames = file.frames

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        """Yield blocks of the mono mix; see `Reader`."""
        preroll = min(first, _MP3_PREROLL) if self.file.format == "MP3" else 0
        if first:
            self.file.seek(first - preroll)
        left = sys.maxsize if count is None else preroll + count
        most = max(1, _BLOCK // self.channels)
        while left > 0:
            block = self.file.read(min(left, most), dtype="float32", always_2d=True)
            if not len(block):
                return
            left -= len(block)
            samples = mixed_to_mono(block[preroll:].T)
            preroll = max(0, preroll - len(block))
            if len(samples):
                yield samples


class AvReader:
    """A file opened with PyAV; positions come from the time stamps of its frames."""

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
        # A bare AAC stream (ADTS) has no index: its duration is a guess, and seeking in it is not
        # exact.
        self.has_index = "mp4" in container.format.name
        self.frames: int | None = None
        if self.has_index and self.stream.duration is not None:
            seconds = float(self.stream.duration * self.stream.time_base)
            self.frames = round(seconds * self.rate)

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        """Yield blocks of the mono mix; see `Reader`."""
        if self.has_index and first > _AV_PREROLL:
            seconds = (first - _AV_PREROLL) / self.rate
            self.container.seek(int(seconds / self.stream.time_base), stream=self.stream)
        stop = sys.maxsize if count is None else first + count
        position = None if self.has_index else 0  # of the next sample; from its time stamp if None
        to_planar_float = self.av.AudioResampler(format="fltp")
        for decoded in self.container.decode(self.stream):
            for frame in to_planar_float.resample(decoded):
                if position is None:
                    position = round(float((frame.pts or 0) * frame.time_base) * self.rate)
                samples = mixed_to_mono(frame.to_ndarray())
                wanted = samples[max(0, first - position) : max(0, stop - position)]
                position += len(samples)
                if len(wanted):
                    yield wanted
                if position >= stop:
                    return


def mixed_to_mono(channels: npt.NDArray[np.float32]) -> Samples:
    """Return the mean (T,) of channels (C, T)."""
    mono: Samples = channels[0]
    if len(channels) > 1:
        mono = channels.mean(axis=0, dtype=np.float32)
    return mono
