"""Opening audio: a path, a member of a tar archive or a shell pipe, with the library that knows it.

The library is chosen by the first bytes, not by the name.

Whatever the library raises becomes a UserError of one line.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import soundfile

from speechssl.audio import members, pipes, remotes
from speechssl.audio.in_memory import InMemory
from speechssl.audio.kinds import LOOK, Kind, kind_of
from speechssl.audio.mp3 import length_is_a_guess
from speechssl.audio.readers import AvReader, ForwardSoundFile, Reader, SoundFileReader
from speechssl.errors import UserError, refuse_without_descriptors
from speechssl.regular import first_bytes, refuse_special_file

PathLike = str | os.PathLike[str]

_AV_FORMATS = (
    "aac ac3 adx aea aiff alaw amr amrnb amrwb ape asf asf_o ast au avi bonk brstm caf codec2 dff"
    " dsf dts dtshd eac3 flac flv gsm gxf hca ilbc ircam kvag lc3 live_flv loas m4v matroska mlp mov"
    " mp3 mp4 mpc mpc8 mpeg mpegts mulaw mxf nistsphere nut oga ogg oma osq qcp qoa rm rso shn sol"
    " sox svx tak truehd tta voc vqf w64 wav webm wsd wtv wv xa xwma"
)
_AV_OPTIONS = {"format_whitelist": _AV_FORMATS.replace(" ", ","), "protocol_whitelist": "file"}
"""For FFmpeg: containers that hold the sound themselves.

Playlists and the like (HLS, DASH, concat, SDP, image sequences) name other files and hosts: they
are not in the list, whatever a file is called. Data outside a MOV file are not followed either,
which is FFmpeg's own default.
"""

_SOUNDFILE_ERRORS = (
    soundfile.SoundFileError,
    RuntimeError,
    TypeError,
    ValueError,
    OSError,
    MemoryError,
)

_RATES = (1000, 1_000_000)
"""Sampling rates that are read, Hz. Resampled to 16 kHz, a second of 1 Hz would be 16,000 times as long."""

_MOST_SECONDS_PER_BYTE = 1.0
"""A recording is no longer than this allows: the sparsest codec takes tens of bytes for a second, and
FLAC of digital silence at least one."""

_NEVER_DOUBTED = 3600.0  # seconds; a header may promise so much, whatever the size of the file


@contextmanager
def open_audio(path: PathLike) -> Iterator[Reader]:
    """Open an audio file.

    Args:
        path: a path, the address of a member of a tar archive (`speechssl.audio.members`), a
            `remotes.Remote`, `in_memory.InMemory`, or a `pipes.Pipe`, which is run.

    Raises:
        UserError: there is no such file, it is not a regular file, not audio, damaged, or it is a
            shell pipe or an address that was not allowed. Errors of the library in the body of the
            `with` are turned into one, too.
    """
    name = os.fspath(path)
    member = None if isinstance(path, InMemory) else members.parse(name)
    if isinstance(path, InMemory):
        with _open_source(io.BytesIO(path.content), name) as reader:
            yield reader
    elif member is not None:
        with _open_fetched(member.open(), str(member)) as reader:
            yield reader
    elif isinstance(path, pipes.Pipe):
        with _open_source(io.BytesIO(pipes.run(path)), name) as reader:
            yield reader
    elif name.rstrip().endswith("|"):
        raise UserError(
            f"{name}: is a shell pipe and was refused; allow it with --allow-pipes if you trust it"
        )
    elif remotes.is_address(name):
        if not isinstance(path, remotes.Remote):
            raise UserError(f"{name}: {remotes.refusal(name)}")
        with _open_fetched(members.open_whole(path), name) as reader:
            yield reader
    else:
        refuse_special_file(name)
        with _open_source(name, name) as reader:
            yield reader


@contextmanager
def _open_fetched(file: Any, name: str) -> Iterator[Reader]:
    """Open a file object of `members`; `name` is what messages call it."""
    try:
        with _open_source(file, name) as reader:
            yield reader
    except UserError:
        # What the decoder takes for the end of the file may be an archive that cannot be read.
        reason = getattr(file, "error", None)
        if reason is None:
            raise
        raise reason from None


@contextmanager
def _open_source(source: Any, name: str) -> Iterator[Reader]:
    """Open a path or a file object; `name` is what messages call it."""
    with ExitStack() as opened:
        try:
            reader = _reader(source, name, opened)
            _refuse_impossible_header(reader, source, name)
            yield reader
        except (*_SOUNDFILE_ERRORS, *_av_errors()) as error:
            raise _error_about(name, error, is_path=isinstance(source, str)) from error


def _refuse_impossible_header(reader: Reader, source: Any, name: str) -> None:
    """Raise UserError if a header claims what would take time or memory beyond the file's size."""
    low, high = _RATES
    if not low <= reader.rate <= high:
        raise UserError(
            f"{name}: its header says {reader.rate} Hz; rates from {low} to {high} Hz are read;"
            " remove or replace it"
        )
    if reader.frames is None:
        return
    size = _size(source)
    seconds = reader.frames / reader.rate
    if seconds > max(_NEVER_DOUBTED, _MOST_SECONDS_PER_BYTE * size):
        raise UserError(
            f"{name}: its header promises {seconds / 3600:.0f} h in {size} bytes; remove or replace it"
        )


def _size(source: Any) -> int:
    """Return the bytes of a path or file object, whose position stays where it is."""
    if isinstance(source, str):
        return os.path.getsize(source)
    position = source.tell()
    size: int = source.seek(0, os.SEEK_END)
    source.seek(position)
    return size


def _reader(source: Any, name: str, opened: ExitStack) -> Reader:
    """Return a reader of the library that knows the container: by its first bytes.

    libsndfile reads the containers that it knows, and is tried on unknown ones. FFmpeg reads the
    other known ones, what libsndfile refuses (a wav file with a rare codec), and those whose length
    libsndfile only guesses.
    """
    kind = kind_of(_head(source))
    refused: Exception | None = None
    if (kind is None or kind.soundfile) and not _length_is_a_guess(source, kind):
        try:
            file = ForwardSoundFile(os.fsencode(source) if isinstance(source, str) else source)
        except _SOUNDFILE_ERRORS as error:
            refused = error
        else:
            opened.enter_context(file)
            reader = SoundFileReader(file)
            # libsndfile cannot read a FLAC stream that leaves its length open.
            if reader.frames is not None:
                return reader
    try:
        return _av_reader(source, name, opened)
    except (UserError, *_SOUNDFILE_ERRORS, *_av_errors()):
        if refused is None:
            raise
        raise refused from None


def _head(source: Any) -> bytes:
    """Return the first bytes of a path or of a file object, which is back at its beginning."""
    if isinstance(source, str):
        return first_bytes(source, LOOK)
    head: bytes = source.read(LOOK)
    source.seek(0)
    return head


def _length_is_a_guess(source: Any, kind: Kind | None) -> bool:
    if kind is None or kind.name != "mp3":
        return False
    if not isinstance(source, str):
        return length_is_a_guess(source)
    with open(source, "rb") as file:
        return length_is_a_guess(file)


def _av_reader(source: Any, name: str, opened: ExitStack) -> AvReader:
    try:
        import av
    except ImportError as error:
        raise UserError(f"{name}: reading it needs PyAV; pip install 'speechssl[av]'") from error
    if isinstance(source, str):
        # FFmpeg takes `concat:a|b` and the like for addresses; `file:` makes it a path.
        source = f"file:{source}"
    else:
        source.seek(0)
    return AvReader(opened.enter_context(av.open(source, options=dict(_AV_OPTIONS))), av)


def _av_errors() -> tuple[type[Exception], ...]:
    """Return FFmpeg's errors, if it was asked for anything."""
    av = sys.modules.get("av")
    # While another thread imports it, the module is there and its names are not.
    error = getattr(av, "FFmpegError", None)
    return () if error is None else (error,)


def _check_descriptors(path: str) -> None:
    """Raise MachineError if no file can be opened: libsndfile calls that a system error."""
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        refuse_without_descriptors(error)


def _error_about(name: str, error: Exception, *, is_path: bool) -> UserError:
    """Return the UserError, one line, for a file that could not be opened or decoded.

    Raises:
        MachineError: it is not the file's fault.
    """
    if is_path:
        if not os.path.exists(name):
            return UserError(f"{name}: no such file; check the path")
        if os.path.isdir(name):
            return UserError(f"{name}: is a directory, not an audio file; give a file")
        if not os.access(name, os.R_OK):
            return UserError(f"{name}: permission denied; make the file readable")
        if os.path.getsize(name) == 0:
            return UserError(f"{name}: is empty (0 bytes); remove or replace it")
        _check_descriptors(name)
    reason = str(getattr(error, "error_string", "") or error)
    detail = " ".join(reason.split()).rstrip(".")
    return UserError(
        f"{name}: corrupt, or not audio that can be read ({detail}); remove or replace it"
    )
