"""Finding the MP3 files whose length libsndfile can only guess.

They have a variable bit rate, and no Xing, Info or VBRI header. libsndfile takes such a file's
length from the bit rate of its first frame, and may lose most of it. Frame layout: ISO/IEC 11172-3,
section 2.4.2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1 = 3  # the two bits of the version: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5, 1 is reserved
_RATES = {_MPEG1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_LAYER_3 = 1  # the two bits of the layer
_LENGTH_HEADERS = (b"Xing", b"Info", b"VBRI")
_LOOK = 1 << 17  # bytes of frames that are examined


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The first four bytes of a frame, decoded.

    Attributes:
        kbps: bit rate, kbit/s.
        size: bytes of the frame.
    """

    kbps: int
    size: int


def length_is_a_guess(file: Any) -> bool:
    """Return True for an MP3 file of variable bit rate without a header that says how long it is.

    Args:
        file: a file object at its beginning, to which it returns.

    Raises:
        OSError: the file cannot be read.
    """
    file.seek(_id3_size(file.read(10)))
    data = file.read(_LOOK)
    file.seek(0)
    position = data.find(b"\xff")
    rates: set[int] = set()
    while 0 <= position < len(data) - 4:
        frame = parse_frame_header(data[position : position + 4])
        if frame is None:
            break
        is_first = not rates
        beginning = data[position : position + 200]
        if is_first and any(name in beginning for name in _LENGTH_HEADERS):
            return False
        rates.add(frame.kbps)
        position += frame.size
    return len(rates) > 1


def _id3_size(head: bytes) -> int:
    """Return the bytes of the ID3 tag whose first ten bytes are `head`; 0 if it is no tag."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:]:  # four bytes of seven bits each
        size = size << 7 | byte & 0x7F
    return 10 + size


def parse_frame_header(header: bytes) -> FrameHeader | None:
    """Return the header of the layer III frame that four bytes begin; None if they begin none."""
    version = header[1] >> 3 & 3
    layer = header[1] >> 1 & 3
    rate_index = header[2] >> 2 & 3
    kbps_index = header[2] >> 4
    padding = header[2] >> 1 & 1
    has_sync_word = header[0] == 0xFF and header[1] >> 5 == 7
    if not has_sync_word or layer != _LAYER_3 or version not in _RATES:
        return None
    if not 0 < kbps_index < 15 or rate_index == 3:
        return None
    rate = _RATES[version][rate_index]
    if version == _MPEG1:
        kbps = _KBPS_MPEG1[kbps_index]
        return FrameHeader(kbps, 144000 * kbps // rate + padding)
    kbps = _KBPS_MPEG2[kbps_index]
    return FrameHeader(kbps, 72000 * kbps // rate + padding)
