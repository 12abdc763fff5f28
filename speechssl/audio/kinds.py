"""What a file is by its first bytes: the name may say anything.

`kind_of` tells the containers of sound, and those of video with sound, by their signatures. What
it does not know may still be sound: FFmpeg looks deeper (`opening`).
"""

from __future__ import annotations

from dataclasses import dataclass

LOOK = 512
"""Bytes from the beginning of a file that `kind_of` and `not_audio` want to see."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A container.

    Attributes:
        name: what people call it.
        soundfile: whether libsndfile reads it; FFmpeg reads the others.
    """

    name: str
    soundfile: bool = False


@dataclass(frozen=True, slots=True)
class _Signature:
    """Bytes that a kind of file has at an offset, and maybe others further on."""

    kind: Kind
    begin: bytes
    offset: int = 0
    more: bytes = b""
    more_offset: int = 8

    def fits(self, head: bytes) -> bool:
        return head.startswith(self.begin, self.offset) and head.startswith(
            self.more, self.more_offset if self.more else 0
        )


_SOUNDFILE = (
    _Signature(Kind("wav", True), b"RIFF", more=b"WAVE"),
    _Signature(Kind("wav", True), b"RIFX", more=b"WAVE"),
    _Signature(Kind("rf64", True), b"RF64", more=b"WAVE"),
    _Signature(Kind("w64", True), b"riff\x2e\x91\xcf\x11"),
    _Signature(Kind("aiff", True), b"FORM", more=b"AIFF"),
    _Signature(Kind("aiff", True), b"FORM", more=b"AIFC"),
    _Signature(Kind("8svx", True), b"FORM", more=b"8SVX"),
    _Signature(Kind("flac", True), b"fLaC"),
    _Signature(Kind("ogg", True), b"OggS"),
    _Signature(Kind("mp3", True), b"ID3"),
    _Signature(Kind("au", True), b".snd"),
    _Signature(Kind("caf", True), b"caff"),
    _Signature(Kind("nist sphere", True), b"NIST_1A"),
    _Signature(Kind("voc", True), b"Creative Voice File"),
    _Signature(Kind("ircam", True), b"\x64\xa3"),
)

_FFMPEG = (
    _Signature(Kind("mp4"), b"ftyp", 4),  # m4a, m4b, 3gp, 3g2, mov
    _Signature(Kind("mov"), b"moov", 4),
    _Signature(Kind("mov"), b"mdat", 4),
    _Signature(Kind("mov"), b"wide", 4),
    _Signature(Kind("matroska"), b"\x1a\x45\xdf\xa3"),  # webm, mkv, mka
    _Signature(Kind("asf"), b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # wma, wmv
    _Signature(Kind("amr"), b"#!AMR"),
    _Signature(Kind("flv"), b"FLV\x01"),
    _Signature(Kind("avi"), b"RIFF", more=b"AVI "),
    _Signature(Kind("qcp"), b"RIFF", more=b"QLCM"),
    _Signature(Kind("mpeg"), b"\x00\x00\x01\xba"),
    _Signature(Kind("mpeg-ts"), b"\x47", more=b"\x47", more_offset=188),
    _Signature(Kind("aac"), b"ADIF"),
    _Signature(Kind("wavpack"), b"wvpk"),
    _Signature(Kind("monkey's audio"), b"MAC "),
    _Signature(Kind("tta"), b"TTA1"),
    _Signature(Kind("musepack"), b"MPCK"),
    _Signature(Kind("musepack"), b"MP+"),
    _Signature(Kind("realmedia"), b".RMF"),
    _Signature(Kind("realaudio"), b".ra\xfd"),
    _Signature(Kind("dsf"), b"DSD "),
    _Signature(Kind("shorten"), b"ajkg"),
    _Signature(Kind("vqf"), b"TWIN"),
    _Signature(Kind("tak"), b"tBaK"),
    _Signature(Kind("oma"), b"ea3"),
    _Signature(Kind("mxf"), b"\x06\x0e\x2b\x34\x02\x05\x01\x01"),
    _Signature(Kind("wtv"), b"\xb7\xd8\x00\x20\x37\x49\xda\x11"),
    _Signature(Kind("nut"), b"nut/multimedia container"),
    _Signature(Kind("ac3"), b"\x0b\x77"),
    _Signature(Kind("dts"), b"\x7f\xfe\x80\x01"),
)

_OTHER = {
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"BM": "an image",
    b"II*\0": "an image",
    b"MM\0*": "an image",
    b"%PDF": "a document",
    b"PK\x03\x04": "a zip archive or document; unpack it",
    b"\x1f\x8b": "compressed; unpack it",
    b"BZh": "compressed; unpack it",
    b"\xfd7zXZ": "compressed; unpack it",
    b"7z\xbc\xaf": "compressed; unpack it",
    b"Rar!": "compressed; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed; unpack it",
    b"\x7fELF": "a program",
}
"""Beginnings of files that people keep beside their audio, and what these are."""

_TAR = (257, b"ustar")


def kind_of(head: bytes) -> Kind | None:
    """Return the container whose file begins with `head` (`LOOK` bytes are enough), or None."""
    for signature in (*_SOUNDFILE, *_FFMPEG):
        if signature.fits(head):
            return signature.kind
    return _kind_of_stream(head)


def _kind_of_stream(head: bytes) -> Kind | None:
    """Return the kind of a bare MPEG stream: a frame of 11 set bits, version and layer."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer = head[1] >> 1 & 3
    if layer == 0:  # ADTS: twelve set bits, and no layer
        return Kind("aac") if head[1] & 0xF0 == 0xF0 else None
    has_rate = head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3
    has_version = head[1] >> 3 & 3 != 1
    return Kind("mp3", True) if has_rate and has_version else None


def not_audio(head: bytes) -> str:
    """Return what a file is that `kind_of` does not know, in a few words."""
    if not head:
        return "empty"
    for beginning, words in _OTHER.items():
        if head.startswith(beginning):
            return words
    offset, mark = _TAR
    if head.startswith(mark, offset):
        return "a tar archive; unpack it"
    if _is_text(head):
        return "text"
    return "no known container of sound"


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character that the end of `head` cuts
    return True
