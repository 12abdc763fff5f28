"""Real speech coders: encode and decode crops, as telephones, calls and files do.

libsndfile (soundfile) brings GSM 06.10, G.721, Opus and MP3, and FFmpeg (PyAV, the extra ``av``) brings
AMR. They run on the CPU, crop by crop, and cost more than everything else that happens to a crop
(`python -m egs.bench.codecs`; figures in the folder's README).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.augment.plan import Codec
from speechssl.errors import UserError

Samples = NDArray[np.float32]

NARROW_RATE = 8000
"""Hz, of the coders of telephones."""


AMR_DELAY = 50
"""Samples that FFmpeg's encoder puts before the first one."""

AMR_BIT_RATES = (4750, 5150, 5900, 6700, 7400, 7950, 10200, 12200)


@dataclass(frozen=True)
class Coder:
    """One coder.

    Attributes:
        code: samples (T,) in -1..1, their rate and the place of the bit rate between the lowest (0)
            and the highest (1) to decoded samples, about T of them.
        sample_rate: of what it codes, Hz; None: that of the crops.
        needs_av: whether PyAV must be installed.
    """

    code: Callable[[Samples, int, float], Samples]
    sample_rate: int | None = None
    needs_av: bool = False


def through(samples: Samples, codec: Codec, sample_rate: int, rate: float) -> Samples:
    """Pass samples (T,) of a rate that the coder takes through it; the result is (T,) too."""
    coded = CODERS[codec].code(samples, sample_rate, rate)
    if len(coded) >= len(samples):
        return coded[: len(samples)]
    return np.pad(coded, (0, len(samples) - len(coded)))


def check_installed(codec: Codec) -> None:
    """Raise UserError if what a coder needs is not installed."""
    if codec not in CODERS or not CODERS[codec].needs_av:
        return
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"augment.codecs: {codec.name.lower()} needs PyAV; pip install 'speechssl[av]', or leave"
            " it out"
        ) from error


def _soundfile(
    samples: Samples,
    sample_rate: int,
    rate: float,
    *,
    format: str,
    subtype: str,
    levels: tuple[float, float] | None = None,
) -> Samples:
    """Write to memory and read back; ``levels`` are libsndfile's, of the lowest and highest rate."""
    file = io.BytesIO()
    level = None if levels is None else levels[0] + rate * (levels[1] - levels[0])
    soundfile.write(
        file, samples, sample_rate, format=format, subtype=subtype, compression_level=level
    )
    file.seek(0)
    decoded: Samples = soundfile.read(file, dtype="float32")[0]
    return decoded


def _amr(samples: Samples, sample_rate: int, rate: float) -> Samples:
    """Encode and decode by AMR at one of its eight bit rates, frame by frame of 20 ms."""
    import av

    coder: Any = av.CodecContext.create("libopencore_amrnb", "w")
    coder.sample_rate = sample_rate
    coder.layout = "mono"
    coder.format = "s16"
    coder.bit_rate = AMR_BIT_RATES[min(int(rate * len(AMR_BIT_RATES)), len(AMR_BIT_RATES) - 1)]
    decoder: Any = av.CodecContext.create("amrnb", "r")
    decoder.sample_rate = sample_rate
    decoder.layout = "mono"
    size = sample_rate // 50
    padded = np.zeros((1, -(-len(samples) // size) * size), dtype=np.int16)
    padded[0, : len(samples)] = np.round(samples.clip(-1.0, 1.0) * 32767)
    packets = []
    for start in range(0, padded.shape[1], size):
        frame = av.AudioFrame.from_ndarray(padded[:, start : start + size], "s16", "mono")
        frame.sample_rate = sample_rate
        packets += coder.encode(frame)
    packets += coder.encode(None)
    pieces = []
    for packet in packets:
        pieces += [frame.to_ndarray().ravel() for frame in decoder.decode(packet)]
    return np.concatenate(pieces).astype(np.float32)[AMR_DELAY:]


CODERS: Mapping[Codec, Coder] = {
    Codec.GSM: Coder(partial(_soundfile, format="WAV", subtype="GSM610"), NARROW_RATE),
    Codec.G721: Coder(partial(_soundfile, format="WAV", subtype="G721_32"), NARROW_RATE),
    Codec.OPUS: Coder(partial(_soundfile, format="OGG", subtype="OPUS", levels=(1.0, 0.9))),
    Codec.MP3: Coder(
        partial(_soundfile, format="MP3", subtype="MPEG_LAYER_III", levels=(0.9, 0.0))
    ),
    Codec.AMR: Coder(_amr, NARROW_RATE, needs_av=True),
}
"""The coders that are libraries, by the codec that they carry out."""
