"""Opening audio: a path, a member of a tar archive or a shell pipe, with the library that knows it.

Whatever the library raises becomes a UserError of one line.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import soundfile

from speechssl.audio import members, pipes, remotes
from speechssl.audio.mp3 import length_is_a_guess
from speechssl.audio.readers import AV_EXTENSIONS, AvReader, Reader, SoundFileReader
from speechssl.audio.regular import refuse_special_file
from speechssl.errors import UserError, refuse_without_descriptors

PathLike = str | os.PathLike[str]

_AV_OPTIONS = {
    "format_whitelist": "aac,aiff,caf,flac,loas,matroska,mov,mp3,mp4,mpegts,ogg,w64,wav,webm",
    "protocol_whitelist": "file",
}
"""For FFmpeg: containers of sound only. Playlists (HLS, DASH, concat) name other files and hosts."""

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
        path: a path, the address of a member of a tar archive (`speechssl.audio.members`), or a
            `pipes.Pipe`, which is run.

    Raises:
        UserError: there is no such file, it is not a regular file, not audio, damaged, or it is a
            shell pipe or an address that was not allowed. Errors of the library in the body of the
            `with` are turned into one, too.
    """
    name = os.fspath(path)
    member = members.parse(name)
    if member is not None:
        with _open_member(member) as reader:
            yield reader
    elif isinstance(path, pipes.Pipe):
        with _open_source(io.BytesIO(pipes.run(path)), name, "") as reader:
            yield reader
    elif name.rstrip().endswith("|"):
        raise UserError(
            f"{name}: is a shell pipe and was refused; allow it with --allow-pipes if you trust it"
        )
    elif remotes.is_address(name):
        if isinstance(name, remotes.Remote):
            raise UserError(
                f"{name}: is no member of a tar archive; stores are read by their shards"
            )
        raise UserError(f"{name}: {remotes.refusal(name)}")
    else:
        refuse_special_file(name)
        with _open_source(name, name, os.path.splitext(name)[1]) as reader:
            yield reader


@contextmanager
def _open_member(member: members.Member) -> Iterator[Reader]:
    file = member.open()
    try:
        with _open_source(file, str(member), member.extension) as reader:
            yield reader
    except UserError:
        # What the decoder takes for the end of the file may be an archive that cannot be read.
        reason = getattr(file, "error", None)
        if reason is None:
            raise
        raise reason from None


@contextmanager
def _open_source(source: Any, name: str, extension: str) -> Iterator[Reader]:
    """Open a path or a file object; `name` is what messages call it."""
    if _needs_av(source, extension.lower()):
        with _open_with_av(source, name) as av_reader:
            _refuse_impossible_header(av_reader, source, name)
            yield av_reader
        return
    with _open_with_soundfile(source, name) as reader:
        _refuse_impossible_header(reader, source, name)
        if reader.frames is not None:
            yield reader
            return
    # libsndfile cannot read a FLAC stream that leaves its length open.
    if not isinstance(source, str):
        source.seek(0)
    with _open_with_av(source, name) as av_reader:
        _refuse_impossible_header(av_reader, source, name)
        yield av_reader


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


def _needs_av(source: Any, extension: str) -> bool:
    if extension in AV_EXTENSIONS:
        return True
    if extension != ".mp3" or not isinstance(source, str):
        return False
    try:
        return length_is_a_guess(source)
    except OSError as error:
        raise _error_about(source, error) from error


@contextmanager
def _open_with_soundfile(source: Any, name: str) -> Iterator[SoundFileReader]:
    if isinstance(source, str):
        source = os.fsencode(source)
    try:
        with soundfile.SoundFile(source) as file:
            yield SoundFileReader(file)
    except (
        soundfile.SoundFileError,
        RuntimeError,
        TypeError,
        ValueError,
        OSError,
        MemoryError,
    ) as error:
        raise _error_about(name, error) from error


@contextmanager
def _open_with_av(source: Any, name: str) -> Iterator[AvReader]:
    try:
        import av
    except ImportError as error:
        raise UserError(f"{name}: reading it needs PyAV; pip install 'speechssl[av]'") from error
    try:
        # FFmpeg takes `concat:a|b` and the like for addresses; `file:` makes it a path.
        where = f"file:{source}" if isinstance(source, str) else source
        with av.open(where, options=_AV_OPTIONS) as container:
            yield AvReader(container, av)
    except (av.FFmpegError, ValueError, OSError, MemoryError) as error:
        raise _error_about(name, error) from error


def _check_descriptors(path: str) -> None:
    """Raise MachineError if no file can be opened: libsndfile calls that a system error."""
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        refuse_without_descriptors(error)


def _error_about(name: str, error: Exception) -> UserError:
    """Return the UserError, one line, for a file that could not be opened or decoded.

    Raises:
        MachineError: it is not the file's fault.
    """
    is_path = not name.endswith("|") and members.parse(name) is None
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
