"""Finding the MP3 files whose length libsndfile can only guess.

They have a variable bit rate, and no Xing, Info or VBRI header. libsndfile takes such
a file's length from the bit rate of its first frame, and may lose most of it.
Frame layout: ISO/IEC 11172-3, section 2.4.2.3.
"""

from __future__ import annotations

import os

_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_LOOK = 1 << 17  # bytes of frames that are examined


def length_is_a_guess(path: str | os.PathLike[str]) -> bool:
    """True for an MP3 file of variable bit rate without a header that says how long it is."""
    with open(path, "rb") as file:
        head = file.read(10)
        tag = 0
        if head[:3] == b"ID3" and len(head) == 10:
            tag = 10 + sum(
                (byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)
            )
        file.seek(tag)
        data = file.read(_LOOK)
    position = data.find(b"\xff")
    rates: set[int] = set()
    while 0 <= position < len(data) - 4:
        frame = _frame(data[position : position + 4])
        if frame is None:
            break
        kbps, size = frame
        if not rates and any(
            mark in data[position : position + 200] for mark in (b"Xing", b"Info", b"VBRI")
        ):
            return False
        rates.add(kbps)
        position += size
    return len(rates) > 1


def _frame(header: bytes) -> tuple[int, int] | None:
    """(kbit/s, bytes) of the layer III frame that begins with these four bytes; None if none
    does.
    """
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    index, rate = header[2] >> 4, header[2] >> 2 & 3
    if (
        header[0] != 0xFF
        or header[1] >> 5 != 7
        or version == 1
        or layer != 1
        or not 0 < index < 15
        or rate == 3
    ):
        return None
    kbps = (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[index]
    size = (144000 if version == 3 else 72000) * kbps // _RATES[version][rate] + (
        header[2] >> 1 & 1
    )
    return kbps, size
