"""Reading audio: against the signals that were written, and every way in which a file can be
bad.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import reading
from speechssl.audio.in_memory import InMemory
from speechssl.audio.mp3 import parse_frame_header
from speechssl.audio.pipes import Pipe
from speechssl.errors import UserError

RATE = 16000


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def speechlike(seconds: float, rate: int = RATE) -> np.ndarray:
    """Bursts of noise and gliding tones: hard on a decoder that starts in the middle."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(t))
    glide = np.sin(2 * np.pi * (200 + 50 * t) * t) * (np.sin(t) > -0.5)
    return (0.3 * glide + 0.05 * noise * (np.sin(3 * t) > 0)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: object) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def without_first_frame(path: Path) -> Path:
    """An MP3 file without its Xing header, so that nothing says how long it is."""
    data = path.read_bytes()
    frame = parse_frame_header(data[:4])
    assert frame is not None
    bare = path.with_name("bare.mp3")
    bare.write_bytes(data[frame.size :])
    return bare


@pytest.fixture(scope="module")
def vbr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mp3") / "vbr.mp3"
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE"}
    return write(path, speechlike(20), compression_level=0.5, **options)


def test_wav_is_read_as_written(tmp_path: Path) -> None:
    samples = tone(1, RATE)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    found = reading.info(path)
    assert (found.rate, found.channels, found.frames, found.seconds) == (RATE, 1, RATE, 1.0)
    read = reading.read(path, RATE)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples)
    np.testing.assert_array_equal(reading.read(path, RATE, 0.25, 0.5), samples[4000:8000])


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_32"])
def test_a_piece_of_what_is_only_read_from_its_beginning(tmp_path: Path, subtype: str) -> None:
    """Coders of telephones, in which libsndfile does not seek."""
    path = write(tmp_path / "call.wav", speechlike(20, 8000), 8000, subtype=subtype)
    whole = reading.read(path, 8000)
    assert np.array_equal(reading.read(path, 8000, 2.0, 17.5), whole[16000:140000])
    assert np.array_equal(reading.read(path, 8000, 12.345), whole[98760:])


def test_stereo_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    left, right = tone(0.5, RATE), tone(0.5, RATE, 1000)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(reading.read(path, RATE), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("source", [8000, 22050, 44100, 48000, 44101])
def test_resampling_keeps_a_tone(tmp_path: Path, source: int) -> None:
    path = write(tmp_path / "a.wav", tone(2, source), source, subtype="FLOAT")
    read = reading.read(path, RATE)
    assert len(read) == 2 * RATE
    np.testing.assert_allclose(
        read[RATE // 2 : -RATE // 2], tone(2, RATE)[RATE // 2 : -RATE // 2], atol=2e-3
    )


def test_resampling_is_librosas(tmp_path: Path) -> None:
    librosa = pytest.importorskip("librosa")
    samples = speechlike(1, 44100)
    path = write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    expected = librosa.resample(samples, orig_sr=44100, target_sr=RATE, res_type="soxr_hq")
    np.testing.assert_allclose(reading.read(path, RATE), expected, atol=1e-6)


@pytest.mark.parametrize("source", [8000, 11025, 44100, 44101, 96000])
def test_a_resampled_piece_is_a_piece_of_the_whole(tmp_path: Path, source: int) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * source)
    path = write(tmp_path / "a.wav", noise, source, subtype="FLOAT")
    whole = reading.read(path, RATE)
    for start, stop in ((0.0, 0.7), (0.5, 1.5), (1.23456, 2.1), (2.5, None)):
        end = None if stop is None else round(stop * RATE)
        piece = reading.read(path, RATE, start, stop)
        np.testing.assert_allclose(piece, whole[round(start * RATE) : end], atol=1e-6)


def test_neighbouring_pieces_tile(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", speechlike(2, 22050), 22050)
    cuts = [0.0, 0.3333, 0.71, 1.5, 2.0]
    pieces = [reading.read(path, RATE, a, b) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_allclose(np.concatenate(pieces), reading.read(path, RATE), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.flac", {}),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.MP3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    samples = speechlike(3)
    path = write(tmp_path / name, samples, **options)
    read = reading.read(path, RATE)
    assert abs(len(read) - len(samples)) <= 1600
    n = min(len(read), len(samples))
    assert np.corrcoef(read[:n], samples[:n])[0, 1] > 0.9
    # Opus decoders converge after a seek, the others are exact
    np.testing.assert_allclose(reading.read(path, RATE, 1.0, 2.0), read[RATE : 2 * RATE], atol=0.02)


def test_pieces_of_a_variable_bit_rate_mp3(vbr: Path) -> None:
    whole, _ = soundfile.read(vbr, dtype="float32")
    for start in (0.01, 3.0, 6.25, 12.5, 18.9):
        piece = reading.read(vbr, RATE, start, start + 1)
        np.testing.assert_allclose(
            piece, whole[round(start * RATE) : round((start + 1) * RATE)], atol=1e-5
        )


def test_variable_bit_rate_mp3_without_a_length(vbr: Path) -> None:
    pytest.importorskip("av")
    bare = without_first_frame(vbr)
    assert soundfile.info(bare).frames < 10 * RATE  # libsndfile's guess: half of it would be lost
    assert reading.info(bare).seconds == pytest.approx(20, abs=0.1)
    whole = reading.read(bare, RATE)
    np.testing.assert_array_equal(reading.read(bare, RATE, 15, 16), whole[15 * RATE : 16 * RATE])
    np.testing.assert_array_equal(reading.read(InMemory(bare.read_bytes()), RATE), whole)


@pytest.mark.parametrize("place", ["file", "pipe", "archive"])
def test_flac_without_a_length(tmp_path: Path, place: str) -> None:
    pytest.importorskip("av")
    samples = speechlike(2)
    path = write(tmp_path / "a.flac", samples)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples: 0 means unknown
    data[22:26] = bytes(4)
    path.write_bytes(data)
    (tmp_path / "shard.tar").write_bytes(bytes(512) + data)
    source: str | Path = {
        "file": path,
        "pipe": Pipe(f"cat '{path}' |"),
        "archive": f"{tmp_path}/shard.tar:512:{len(data)}.flac",
    }[place]
    assert reading.info(source).frames == len(samples)
    np.testing.assert_allclose(reading.read(source, RATE), samples, atol=1e-4)


@pytest.mark.parametrize(("name", "container"), [("a.m4a", "mp4"), ("a.aac", "adts")])
def test_aac(tmp_path: Path, name: str, container: str) -> None:
    av = pytest.importorskip("av")
    samples = tone(3, 44100)
    with av.open(str(tmp_path / name), "w", format=container) as file:
        stream = file.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    assert reading.info(tmp_path / name).seconds == pytest.approx(3, abs=0.1)
    read = reading.read(tmp_path / name, RATE)
    spectrum = np.abs(np.fft.rfft(read[RATE : 2 * RATE]))
    assert spectrum.argmax() == 440
    piece = reading.read(tmp_path / name, RATE, 1.5, 2.5)
    np.testing.assert_allclose(piece, read[RATE * 3 // 2 : RATE * 5 // 2], atol=5e-3)


def test_check_finds_length_and_peak(tmp_path: Path) -> None:
    samples = np.zeros(RATE * 70, np.float32)
    samples[RATE * 69] = -0.75
    content = reading.check(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert (content.info.seconds, content.peak) == (70.0, 0.75)


def test_a_crop_of_a_three_hour_file_reads_only_its_samples(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    samples = 3 * 3600 * 8000
    write(path, np.zeros(8, np.int16), 8000, subtype="PCM_U8")
    header = bytearray(path.read_bytes()[:44])
    header[4:8] = (samples + 36).to_bytes(4, "little")
    header[40:44] = samples.to_bytes(4, "little")
    with open(path, "wb") as file:  # a sparse file: the data are a hole, and never on the disk
        file.write(header)
        file.truncate(44 + samples)
    counter = subprocess.run(
        [sys.executable, "-c", _COUNT.format(path=str(path))],
        capture_output=True,
        text=True,
        check=True,
    )
    length, read = counter.stdout.split()
    assert int(length) == 2 * RATE
    assert int(read) < 200_000


_COUNT = """
import soundfile
from speechssl.audio import reading
read, taken = soundfile.SoundFile.read, []
def counting(self, frames=-1, *rest, **options):
    block = read(self, frames, *rest, **options)
    taken.append(len(block))
    return block
soundfile.SoundFile.read = counting
print(len(reading.read({path!r}, 16000, 9000.0, 9002.0)), sum(taken))
"""


def test_reading_at_the_files_own_rate_imports_no_resampler(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(0.1, RATE))
    program = (
        "import sys; from speechssl.audio import reading; before = set(sys.modules); "
        f"reading.read({str(path)!r}, 16000); new = set(sys.modules) - before; "
        "print(sorted(new & {'librosa', 'soxr', 'av', 'numba'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_unicode_and_odd_names(tmp_path: Path) -> None:
    for name in ("ção 日本語 😀.wav", "two  blanks.wav", os.fsdecode(b"latin-\xe9.wav")):
        try:
            path = write(tmp_path / "plain.wav", tone(0.1, RATE)).rename(tmp_path / name)
        except OSError:
            continue
        assert len(reading.read(path, RATE)) == 1600


def bad_files(folder: Path) -> dict[str, str]:
    """File name -> what the message must say of it."""
    (folder / "zero.wav").touch()
    (folder / "text.wav").write_text("not audio at all, only some words in a file\n")
    (folder / "junk.mp3").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "junk.m4a").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "no.raw").write_bytes(bytes(4000))
    (folder / "folder.wav").mkdir()
    write(folder / "header.wav", np.zeros(0, np.float32))
    cut = write(folder / "cut.flac", speechlike(5)).read_bytes()
    (folder / "cut.flac").write_bytes(cut[: len(cut) // 2])
    samples = tone(1, RATE)
    samples[8000] = np.nan
    write(folder / "nan.wav", samples, subtype="FLOAT")
    write(folder / "inf.wav", np.where(np.isnan(samples), np.inf, samples), subtype="FLOAT")
    return {
        "missing.wav": "no such file",
        "missing.m4a": "no such file",
        "missing.mp3": "no such file",
        "folder.wav": "is a directory",
        "zero.wav": "is empty",
        "header.wav": "is empty",
        "text.wav": "corrupt, or not audio",
        "junk.mp3": "corrupt, or not audio",
        "junk.m4a": "corrupt, or not audio",
        "no.raw": "corrupt, or not audio",
        "cut.flac": "corrupt, or not audio",
        "nan.wav": "NaN or infinite",
        "inf.wav": "NaN or infinite",
    }


def test_bad_files_give_one_clear_line(tmp_path: Path) -> None:
    for name, words in bad_files(tmp_path).items():
        for function in (lambda path: reading.read(path, RATE), reading.check):
            with pytest.raises(UserError, match=words) as caught:
                function(tmp_path / name)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_truncated_mp3_is_told_from_a_rounded_one(vbr: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(vbr.read_bytes()[: vbr.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        reading.check(cut)


@pytest.mark.parametrize(
    ("start", "stop"), [(-1.0, None), (0.5, 0.5), (0.7, 0.2), (float("nan"), None)]
)
def test_bad_spans(tmp_path: Path, start: float, stop: float | None) -> None:
    path = write(tmp_path / "a.wav", tone(1, RATE))
    with pytest.raises(UserError, match="cannot read from"):
        reading.read(path, RATE, start, stop)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_start_beyond_the_end(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", tone(1, RATE))
    with pytest.raises(UserError, match="beyond its end at 1.000 s"):
        reading.read(path, rate, 1.0, 2.0)
    assert len(reading.read(path, rate, 0.5, 99.0)) == rate // 2


def test_pipes_run_only_with_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(1, RATE), subtype="FLOAT")
    command = f"cat '{path}' |"
    with pytest.raises(UserError, match="refused"):
        reading.read(command, RATE)
    np.testing.assert_array_equal(reading.read(Pipe(command), RATE), tone(1, RATE))
    with pytest.raises(UserError, match="exit code 3"):
        reading.read(Pipe("exit 3 |"), RATE)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"speechssl\[av\]"):
        (tmp_path / "a.m4a").write_bytes(bytes(4) + b"ftypM4A ")
        reading.read(tmp_path / "a.m4a", RATE)
