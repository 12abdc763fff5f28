"""Audio of a few utterances as Ogg Opus, within a budget of bytes, and their spectrograms.

Only recordings of the Kaldi directories that the user named are read: nothing in an experiment says
which file is opened.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from speechssl.data.manifest import Utterance
from speechssl.errors import UserError

SAMPLE_RATE = 16_000
"""Hz, of the clips: Opus takes it as it is."""

LONGEST = 8.0
"""Seconds of an utterance that are kept, from its beginning."""

FLOOR_DB = 70.0
"""dB below the loudest place of a spectrogram at which it is black."""

Samples = NDArray[np.float32]


class Clips:
    """The clips of a page.

    Args:
        utterances: id -> where its audio is.
        budget: most characters of all clips together, as base64; 0: no audio.
    """

    def __init__(self, utterances: Mapping[str, Utterance], budget: int) -> None:
        self.utterances = utterances
        self.budget = budget
        self.failed: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._used = 0
        self._pictures: dict[str, str] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further clip has room."""
        return self._used >= self.budget

    def add(self, name: str) -> str:
        """Embed an utterance; return its key, "" if it cannot be read or no room is left."""
        if name in self._keys:
            return self._keys[name]
        if self.is_full:
            return ""
        samples = self._samples(name)
        if samples is None:
            return ""
        address = _data_address("audio/ogg", _opus(samples))
        if self._used + len(address) > self.budget:
            self._used = self.budget
            return ""
        key = f"c{len(self._keys)}"
        self._keys[name] = key
        self._used += len(address)
        self.addresses[key] = address
        return key

    def picture(self, name: str) -> str:
        """Return the spectrogram of an utterance as a data address, "" if it cannot be read."""
        if name not in self._pictures:
            samples = self._samples(name)
            shown = "" if samples is None else _data_address("image/png", spectrogram(samples))
            self._pictures[name] = shown
        return self._pictures[name]

    def _samples(self, name: str) -> Samples | None:
        utterance = self.utterances.get(name)
        if utterance is None or name in self.failed:
            return None
        try:
            return utterance.beginning(LONGEST).read(SAMPLE_RATE)
        except UserError as error:
            self.failed[name] = str(error)
            return None


def _opus(samples: Samples) -> bytes:
    """Return samples (T,) as Ogg Opus, at 0.9 of full scale at most."""
    import soundfile

    peak = float(np.abs(samples).max(initial=0.0))
    if peak > 0.9:
        samples = samples * (0.9 / peak)
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.9)
    return file.getvalue()


def spectrogram(samples: Samples) -> bytes:
    """Return a PNG of the power (dB) of samples (T,) on a mel axis, low frequencies below."""
    import librosa
    from matplotlib import colormaps
    from PIL import Image

    samples = np.pad(samples, (0, max(0, 1024 - len(samples))))
    with warnings.catch_warnings():  # a library that it loads misses widgets in a notebook
        warnings.filterwarnings("ignore", message="IProgress not found")
        power = librosa.feature.melspectrogram(
            y=samples, sr=SAMPLE_RATE, n_fft=512, hop_length=320, win_length=400, n_mels=80
        )
    decibels = librosa.power_to_db(power, ref=np.max, top_db=FLOOR_DB)[::-1]
    shades = colormaps["magma"](decibels / FLOOR_DB + 1, bytes=True)[..., :3]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shades)).quantize(48).save(file, "PNG", optimize=True)
    return file.getvalue()


def _data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
