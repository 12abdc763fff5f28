"""Containers that FFmpeg reads, under names that say nothing; and what must never be opened."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from speechssl.audio import reading
from speechssl.audio.kinds import kind_of, not_audio
from speechssl.audio.walk import HIDDEN, PassedOver, audio_files
from speechssl.corpora import folder
from speechssl.embed.sources import collect
from speechssl.errors import UserError

RATE = 16000
SECONDS = 6


class Container(NamedTuple):
    """How FFmpeg writes one: its name there, the codec, and the rate in Hz."""

    format: str
    codec: str
    rate: int
    has_video: bool = False
    error: float = 0.02
    """Largest difference between a piece and the same samples of the whole."""


# Time stamps of a millisecond move the piece by up to half of one: those are compared by ear only.
COARSE = 2.0

CONTAINERS = {
    "m4a": Container("ipod", "aac", 16000),
    "mp4": Container("mp4", "aac", 44100, has_video=True),
    "mov": Container("mov", "pcm_s16le", 16000),
    "3gp": Container("3gp", "libopencore_amrnb", 8000),
    "webm": Container("webm", "libopus", 48000, error=COARSE),
    "mkv": Container("matroska", "flac", 16000, has_video=True),
    "wma": Container("asf", "wmav2", 44100, error=COARSE),
    "wmv": Container("asf", "wmav2", 16000, has_video=True, error=COARSE),
    "amr": Container("amr", "libopencore_amrnb", 8000),
    "aac": Container("adts", "aac", 16000),
    "avi": Container("avi", "libmp3lame", 16000, has_video=True, error=COARSE),
    "ac3": Container("ac3", "ac3", 48000),
    "tta": Container("tta", "tta", 16000),
    "opus": Container("ogg", "libopus", 48000),
    "caf": Container("caf", "pcm_s16le", 16000),
    "au": Container("au", "pcm_mulaw", 8000),
}


def tone(rate: int) -> np.ndarray:
    """440 Hz for two seconds, 1000 Hz for two, 600 Hz for the rest."""
    time = np.arange(SECONDS * rate) / rate
    hertz = np.select([time < 2, time < 4], [440.0, 1000.0], 600.0)
    return (0.4 * np.sin(2 * np.pi * np.cumsum(hertz) / rate)).astype(np.float32)


def write(path: Path, container: Container) -> Path:
    av = pytest.importorskip("av")
    samples = tone(container.rate)
    with av.open(str(path), "w", format=container.format) as file:
        pictures = None
        if container.has_video:
            pictures = file.add_stream("mpeg4", rate=5)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        stream = file.add_stream(container.codec, rate=container.rate, layout="mono")
        if container.codec in ("wmav2", "ac3"):
            stream.bit_rate = 64000
        if pictures is not None:
            for number in range(5 * SECONDS):
                image = np.full((32, 32, 3), 8 * number, np.uint8)
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                picture.pts = number
                file.mux(pictures.encode(picture))
            file.mux(pictures.encode(None))
        context = stream.codec_context
        convert = av.AudioResampler(
            format=context.format.name,
            layout="mono",
            rate=container.rate,
            frame_size=context.frame_size or 1024,
        )
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = container.rate
        frame.pts = 0
        for converted in (*convert.resample(frame), *convert.resample(None)):
            file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
    return path


def hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * RATE / len(samples)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_known_by_its_content_and_read_from_any_place(
    name: str, tmp_path: Path
) -> None:
    container = CONTAINERS[name]
    path = write(tmp_path / "no_ending", container)
    assert reading.info(path).seconds == pytest.approx(SECONDS, abs=0.15)
    assert list(audio_files(tmp_path)) == ["no_ending"]
    whole = reading.read(path, RATE)
    assert len(whole) == pytest.approx(SECONDS * RATE, abs=0.15 * RATE)
    for start, expected in ((0.5, 440.0), (2.5, 1000.0), (4.5, 600.0)):
        piece = reading.read(path, RATE, start, start + 1)
        assert len(piece) == RATE
        assert hertz(piece) == pytest.approx(expected, abs=2)
        same = whole[round(start * RATE) : round(start * RATE) + RATE]
        assert np.abs(piece - same).max() < container.error


def test_a_wrong_name_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path / "really_aac.wav", CONTAINERS["m4a"])
    soundfile.write(tmp_path / "really_wav.m4a", tone(RATE), RATE, format="WAV", subtype="FLOAT")
    assert hertz(reading.read(tmp_path / "really_aac.wav", RATE, 2.5, 3.5)) == 1000
    np.testing.assert_array_equal(reading.read(tmp_path / "really_wav.m4a", RATE), tone(RATE))


def test_channels_are_told_apart(tmp_path: Path) -> None:
    left = tone(RATE)
    right = tone(RATE)[::-1]
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(reading.read(path, RATE, channel=1), left)
    np.testing.assert_array_equal(
        reading.read(path, RATE, 1.0, 2.0, channel=2), right[RATE : 2 * RATE]
    )
    for channel in (0, 3):
        with pytest.raises(UserError, match="has 2 channels, so no channel"):
            reading.read(path, RATE, channel=channel)


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
    "concat.ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "smil.smil": "<smil><body><audio src='{target}'/></body></smil>\n",
    "dash.mpd": "<MPD><BaseURL>{target}</BaseURL></MPD>\n",
    "list.m3u": "{target}\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("ending", ["", ".wav", ".m4a", ".mp4", ".webm"])
def test_a_playlist_opens_no_other_file_and_no_host(name: str, ending: str, tmp_path: Path) -> None:
    pytest.importorskip("av")
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, tone(RATE), RATE)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.01)
        port = server.getsockname()[1]
        for target in (str(secret), f"http://127.0.0.1:{port}/a.wav"):
            path = tmp_path / f"{name}{ending}"
            path.write_text(PLAYLISTS[name].format(target=target, port=port))
            with pytest.raises(UserError, match="corrupt, or not audio"):
                reading.read(path, RATE)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_length_that_the_file_cannot_hold_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", CONTAINERS["m4a"])
    data = bytearray(path.read_bytes())
    place = data.index(b"mdhd") + 4 + 16  # version and flags, two times, rate; then the duration
    data[place : place + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(data)
    assert reading.info(path).seconds == pytest.approx(SECONDS, abs=0.15)


def test_what_a_walk_passes_over_is_named_with_the_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    (tmp_path / "notes.txt").write_text("Größe\n", encoding="utf-8")
    (tmp_path / "cover").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (tmp_path / "nothing").touch()
    (tmp_path / "noise.bin").write_bytes(bytes(range(128, 256)))
    (tmp_path / ".hidden.wav").touch()
    (tmp_path / ".git").mkdir()
    passed_over: list[PassedOver] = []
    assert list(audio_files(tmp_path, passed_over)) == ["a.wav"]
    assert {item.path: item.reason for item in passed_over} == {
        "notes.txt": "text",
        "cover": "an image",
        "nothing": "empty",
        "noise.bin": "no known container of sound",
        ".hidden.wav": HIDDEN,
        ".git": HIDDEN,
    }


def test_a_folder_that_cannot_be_read_is_passed_over_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refused(path: str) -> Any:
        if os.fspath(path).endswith("secret"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    (tmp_path / "secret").mkdir()
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    monkeypatch.setattr(os, "scandir", refused)
    passed_over: list[PassedOver] = []
    assert list(audio_files(tmp_path, passed_over)) == ["a.wav"]
    assert passed_over == [PassedOver("secret", "cannot be read (Permission denied)")]


def test_prepare_and_embed_list_what_they_pass_over(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", tone(RATE), RATE)
    (audio / "notes.txt").write_text("words\n")
    folder.prepare(audio, tmp_path / "out")
    rows = (tmp_path / "out/skipped.tsv").read_text().splitlines()
    assert rows[1:] == ["notes.txt\tnot audio: text"]
    passed_over: list[PassedOver] = []
    found, _ = collect([audio], passed_over=passed_over)
    assert [utterance.id for utterance in found] == ["a.wav"]
    assert passed_over == [PassedOver(str(audio / "notes.txt"), "text")]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\xfb\x90\x00", "mp3"),
        (b"\xff\xf1\x50\x80", "aac"),
        (b"\xff\xf3\x84\xc4", "mp3"),
        (b"RIFF\x00\x00\x00\x00WAVE", "wav"),
        (b"RIFF\x00\x00\x00\x00AVI ", "avi"),
        (b"\xff\xff\xff\xff", None),
        (b"\xff\xd8\xff\xe0", None),
        (b"RIFF", None),
        (b"", None),
    ],
)
def test_first_bytes(head: bytes, expected: str | None) -> None:
    kind = kind_of(head)
    assert (None if kind is None else kind.name) == expected


def test_a_character_that_is_cut_is_still_text() -> None:
    assert not_audio("é".encode()[:1].join([b"caf", b""])) == "text"
    assert not_audio(b"\xff\xfe\xfd\xfc\xfb") == "no known container of sound"
