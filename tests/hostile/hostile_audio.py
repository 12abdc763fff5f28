"""Recordings of every container, and a seeded fuzzer that breaks them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16000
SOUNDFILE = {
    "wav": ("WAV", "PCM_16", ".wav"),
    "wav of floats": ("WAV", "FLOAT", ".wav"),
    "wav of 24 bits": ("WAVEX", "PCM_24", ".wav"),
    "wav, mu-law": ("WAV", "ULAW", ".wav"),
    "wav, IMA ADPCM": ("WAV", "IMA_ADPCM", ".wav"),
    "wav, MS ADPCM": ("WAV", "MS_ADPCM", ".wav"),
    "wav, GSM": ("WAV", "GSM610", ".wav"),
    "rf64": ("RF64", "PCM_16", ".wav"),
    "w64": ("W64", "PCM_16", ".wav"),
    "sphere": ("NIST", "PCM_16", ".wav"),
    "au": ("AU", "PCM_16", ".wav"),
    "caf": ("CAF", "PCM_16", ".wav"),
    "caf, ALAC": ("CAF", "ALAC_16", ".wav"),
    "aiff": ("AIFF", "PCM_16", ".aiff"),
    "flac": ("FLAC", "PCM_16", ".flac"),
    "ogg": ("OGG", "VORBIS", ".ogg"),
    "opus": ("OGG", "OPUS", ".opus"),
    "mp3": ("MP3", "MPEG_LAYER_III", ".mp3"),
}
"""Kind -> container and coding of libsndfile, ending of the name."""

AV = {
    "m4a": ("mp4", "aac", ".m4a"),
    "mp4, fragments": ("mp4", "aac", ".mp4"),
    "aac": ("adts", "aac", ".aac"),
    "mp4, FLAC": ("mp4", "flac", ".mp4"),
    "mp3 for FFmpeg": ("mp3", "mp3", ".m4a"),
    "webm": ("webm", "libopus", ".m4a"),
}
"""Kind -> container and coding of FFmpeg, ending of the name."""

NUMBERS = (0, 1, 2, 255, 1024, 65535, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values that are put into fields of headers."""


def samples(seconds: float = 1.0, seed: int = 0) -> np.ndarray[Any, Any]:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Yield kind, ending and bytes of a good recording of each container that can be written here."""
    for kind, (container, coding, ending) in SOUNDFILE.items():
        file = io.BytesIO()
        soundfile.write(file, samples(), RATE, subtype=coding, format=container)
        yield kind, ending, file.getvalue()
    try:
        import av
    except ImportError:
        return
    for kind, (container, coding, ending) in AV.items():
        options = {"movflags": "frag_keyframe+empty_moov"} if "fragments" in kind else {}
        try:
            yield kind, ending, written_by_ffmpeg(av, container, coding, options)
        except av.FFmpegError:
            continue  # a build without this encoder


def written_by_ffmpeg(av: Any, container: str, coding: str, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as out:
        stream = out.add_stream(coding, rate=48000 if "opus" in coding else RATE, layout="mono")
        values = (samples(1.2) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(values[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return file.getvalue()


def flipped(data: bytearray, rng: np.random.Generator) -> None:
    """Flip one to thirty bits anywhere."""
    for _ in range(int(rng.integers(1, 31))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def flipped_in_header(data: bytearray, rng: np.random.Generator) -> None:
    """Flip one to four bits of the first 128 bytes."""
    for _ in range(int(rng.integers(1, 5))):
        data[int(rng.integers(min(128, len(data))))] ^= 1 << int(rng.integers(8))


def truncated(data: bytearray, rng: np.random.Generator) -> None:
    """Cut the end off, most often within the header."""
    most = 128 if rng.random() < 0.5 else len(data)
    del data[int(rng.integers(min(most, len(data)))) :]


def with_a_field(data: bytearray, rng: np.random.Generator) -> None:
    """Put a number of `NUMBERS` of 2, 4 or 8 bytes, of either order, into the first 256 bytes."""
    width = int(rng.choice([2, 4, 8]))
    number = int(rng.choice(NUMBERS)) & ((1 << 8 * width) - 1)
    if rng.random() < 0.2:
        number = (1 << (8 * width - 1)) - 1
    order = "big" if rng.random() < 0.5 else "little"
    place = int(rng.integers(max(1, min(256, len(data)) - width)))
    data[place : place + width] = number.to_bytes(width, order)  # type: ignore[arg-type]


def shuffled(data: bytearray, rng: np.random.Generator) -> None:
    """Copy a block over another place, take one out, or put noise in."""
    size = int(rng.integers(1, max(2, len(data) // 4)))
    here = int(rng.integers(max(1, len(data) - size)))
    there = int(rng.integers(max(1, len(data) - size)))
    choice = rng.integers(3)
    if choice == 0:
        data[there : there + size] = data[here : here + size]
    elif choice == 1:
        del data[here : here + size]
    else:
        data[here:here] = rng.bytes(size)


ATTACKS: dict[str, Callable[[bytearray, np.random.Generator], None]] = {
    "bits flipped": flipped,
    "bits of the header flipped": flipped_in_header,
    "truncated": truncated,
    "fields of the header": with_a_field,
    "blocks moved": shuffled,
}


def mutants(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` broken copies of each attack, and its name."""
    for number, (attack, change) in enumerate(ATTACKS.items()):
        for row in range(count):
            copy = bytearray(data)
            change(copy, np.random.default_rng([seed, number, row]))
            yield attack, bytes(copy)


def wav(
    *,
    rate: int = RATE,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    frames: int = RATE,
    promised: int | None = None,
    riff: int | None = None,
) -> bytes:
    """Return a wav file whose header says what one likes; `promised` bytes of samples."""
    values = (samples(1.0) * 32767).astype("<i2").tobytes()
    align = channels * bits // 8 & 0xFFFF
    data = (values * (1 + frames * max(1, align) // len(values)))[: frames * max(1, align)]
    promised = len(data) if promised is None else promised
    form = struct.pack(
        "<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align, bits & 0xFFFF
    )
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", promised)
    riff = len(body) + len(data) if riff is None else riff
    return b"RIFF" + struct.pack("<I", riff & 0xFFFFFFFF) + body + data


def flac_of_silence(seconds: int, rate: int = RATE, promised: int | None = None) -> bytes:
    """Return a FLAC file of digital silence, about 14 bytes a block of 65,535 samples."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(rate * 30, np.int16), rate, format="FLAC")
    data = bytearray(file.getvalue())
    total = rate * seconds if promised is None else promised
    # STREAMINFO begins at byte 8; the number of samples is its last 36 bits before the MD5.
    field = int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1) | total & ((1 << 36) - 1)
    data[18:26] = field.to_bytes(8, "big")
    data[26:42] = bytes(16)
    return bytes(data)


def lying_headers() -> dict[str, tuple[str, bytes]]:
    """Return name -> ending and bytes of recordings whose headers claim what cannot be."""
    ogg = io.BytesIO()
    soundfile.write(ogg, samples(), RATE, subtype="VORBIS", format="OGG")
    last_page = ogg.getvalue().rindex(b"OggS")
    found = {}
    for rate in (0, 1, 7, 999, 1_000_001, 0x7FFFFFFF, 0xFFFFFFFF):
        found[f"wav of {rate} Hz"] = (".wav", wav(rate=rate, frames=200_000))
    for channels in (0, 255, 256, 1024, 1025, 65535):
        found[f"wav of {channels} channels"] = (".wav", wav(channels=channels, frames=200))
    for bits in (0, 1, 7, 12, 64, 255, 65535):
        found[f"wav of {bits} bits"] = (".wav", wav(bits=bits))
    for size in (0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF):
        found[f"wav that promises {size} bytes"] = (".wav", wav(promised=size))
        found[f"wav of a RIFF of {size} bytes"] = (".wav", wav(riff=size))
    for samples_promised in (0, 1, 1 << 30, (1 << 36) - 1):
        data = flac_of_silence(30, promised=samples_promised)
        found[f"flac that promises {samples_promised} samples"] = (".flac", data)
    for granule in (0, 1 << 30, 1 << 46, (1 << 47) - 1, (1 << 62), (1 << 64) - 1):
        data = bytearray(ogg.getvalue())
        data[last_page + 6 : last_page + 14] = granule.to_bytes(8, "little")
        found[f"ogg that ends at {granule}"] = (".ogg", with_checksums(data))
    return found


def with_checksums(data: bytearray) -> bytes:
    """Return an ogg file with the checksums of its pages made right."""
    place = 0
    while data[place : place + 4] == b"OggS":
        count = data[place + 26]
        end = place + 27 + count + sum(data[place + 27 : place + 27 + count])
        data[place + 22 : place + 26] = bytes(4)
        data[place + 22 : place + 26] = ogg_checksum(data[place:end]).to_bytes(4, "little")
        place = end
    return bytes(data)


def ogg_checksum(page: bytes | bytearray) -> int:
    """CRC-32 of polynomial 0x04c11db7, not reflected, from 0 (RFC 3533, section 6)."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)
        value &= 0xFFFFFFFF
    return value


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
