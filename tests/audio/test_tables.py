"""One reader of lists and one walk for the whole package: every user of them takes every ending."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import EXTENSIONS
from speechssl.audio.tables import read_utterances_table, read_wav_scp, refuse
from speechssl.audio.walk import audio_files
from speechssl.augment.noise_bank import NoiseBank
from speechssl.corpora.listing import listing
from speechssl.embed.sources import collect
from speechssl.errors import UserError

RATE = 16000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)


def write_m4a(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(NOISE[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)


def test_a_walk_finds_every_ending_in_either_case_and_each_folder_once(tmp_path: Path) -> None:
    names = sorted(f"a{number}{ending}" for number, ending in enumerate(EXTENSIONS))
    for name in (*names, "B.WAV", ".hidden.wav", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/c.wav").touch()
    (tmp_path / "below/loop").symlink_to(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/d.wav").touch()
    assert sorted(audio_files(tmp_path)) == sorted([*names, "B.WAV", "below/c.wav"])


@pytest.mark.parametrize("ending", [".aiff", ".aif", ".AIFF", ".flac"])
def test_noise_corpora_and_embedding_take_the_same_files(tmp_path: Path, ending: str) -> None:
    container = "FLAC" if ending == ".flac" else "AIFF"
    soundfile.write(tmp_path / f"music{ending}", NOISE, RATE, format=container)
    assert [file.path for file in listing(tmp_path)] == [f"music{ending}"]
    assert [utterance.id for utterance in collect([tmp_path])[0]] == [f"music{ending}"]
    bank = NoiseBank(str(tmp_path), RATE)
    assert bank.kinds == ["music"]
    assert bank.lengths[0].tolist() == [RATE]


def test_a_folder_of_m4a_is_noise(tmp_path: Path) -> None:
    write_m4a(tmp_path / "noise.m4a")
    bank = NoiseBank(str(tmp_path), RATE)
    assert bank.kinds == ["noise"]
    assert bank.lengths[0].item() == pytest.approx(RATE, abs=2048)


def test_noises_come_in_the_order_of_their_folders(tmp_path: Path) -> None:
    for number, name in enumerate(["a-b/x.wav", "a/y.wav", "a/z.wav"], start=1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, NOISE[: 1000 * number], RATE)
    # by the parts of a path, so that a bank does not change: "a" before "a-b"
    assert NoiseBank(str(tmp_path), RATE).lengths[0].tolist() == [2000, 3000, 1000]


def test_noise_from_a_kaldi_directory_and_its_bad_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        soundfile.write(tmp_path / f"{name} x.wav", NOISE, RATE)
    (tmp_path / "wav.scp").write_text(
        f"one\t{tmp_path}/one x.wav\ntwo {tmp_path}/two x.wav\r\nempty\npipe sox x.wav - |\n"
    )
    (tmp_path / "utt2kind").write_text("two babble\n")
    with caplog.at_level(logging.WARNING):
        bank = NoiseBank(str(tmp_path), RATE)
    assert bank.kinds == ["noise", "speech"]
    messages = [record.getMessage() for record in caplog.records]
    assert ["'empty' has no value" in messages[0], "'pipe' is a shell pipe" in messages[1]] == [
        True,
        True,
    ]


def test_noise_from_utterances_tsv(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, RATE)
    (tmp_path / "utterances.tsv").write_text("\ufeffpath\tkind\na.wav\tmusic\n", encoding="utf-8")
    assert NoiseBank(str(tmp_path), RATE).kinds == ["music"]
    (tmp_path / "utterances.tsv").write_text("file\na.wav\n")
    with pytest.raises(UserError, match="no column `path`"):
        NoiseBank(str(tmp_path), RATE)


def test_rows_of_utterances_tsv(tmp_path: Path) -> None:
    table = tmp_path / "utterances.tsv"
    table.write_text("path\tspeaker\r\n a.wav\tann \r\n\nb.wav\t\r\n")
    assert read_utterances_table(table) == [
        {"path": "a.wav", "speaker": "ann"},
        {"path": "b.wav", "speaker": ""},
    ]
    table.write_text("path\tspeaker\na.wav\n")
    with pytest.raises(UserError, match=r"utterances\.tsv:2: 1 columns, but the header has 2"):
        read_utterances_table(table)


def test_a_damaged_archive_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(bytes(1000))
    (tmp_path / "wav.scp").write_text(f"a {archive}:0:900.wav\nb {archive}:512:900.wav\n")
    looked: list[str] = []

    def size(name: str) -> int:
        looked.append(name)
        return 1000

    monkeypatch.setattr("speechssl.audio.members.archive_size", size)
    bad: list[tuple[str, str]] = []
    found = read_wav_scp(
        tmp_path / "wav.scp",
        lambda name, message: bad.append((name, message)),
        allow_pipes=False,
        check_files=True,
    )
    assert list(found) == ["a"] and looked == [str(archive)]
    assert bad[0][0] == "b" and "a.tar: truncated: it ends at byte 1000" in bad[0][1]
    with pytest.raises(UserError, match="truncated"):
        read_wav_scp(tmp_path / "wav.scp", refuse, allow_pipes=False, check_files=True)
