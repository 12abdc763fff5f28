"""MUSAN and RIRS_NOISES in miniature, down to what the augmentation makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trees

from speechssl.augment.noise_bank import NoiseBank, load_rirs
from speechssl.corpora import musan, rirs_noises
from speechssl.data.manifest import read_manifest
from speechssl.errors import UserError

RATE = 16000


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """MUSAN in a folder whose own name says speech."""
    return trees.musan(tmp_path / "speech corpora").root / "musan"


def test_musan_with_the_kinds_that_the_noise_bank_reads(sounds: Path, tmp_path: Path) -> None:
    musan.prepare(sounds.parent, tmp_path / "out", partial=True)
    kinds = read_manifest(tmp_path / "out", "kind").labels["kind"]
    assert kinds["noise/free-sound/noise-free-sound-0001.wav"] == "noise"
    assert sorted(kinds.values()) == ["music"] * 2 + ["noise"] * 3 + ["speech"]
    bank = NoiseBank(str(tmp_path / "out"), RATE)
    assert bank.kinds == ["noise", "music", "speech"]
    assert [list(lengths / RATE) for lengths in bank.lengths] == [[1, 1, 1], [2, 2], [3]]
    (tmp_path / "out/utt2kind").unlink()  # then ids tell, not the folder above the corpus
    assert [len(lengths) for lengths in NoiseBank(str(tmp_path / "out"), RATE).lengths] == [3, 2, 1]


def test_musan_is_counted(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(musan.COUNTS.values()) == 2016
    with pytest.raises(UserError, match="noise: 3 files, where MUSAN has 930; unpack it again"):
        musan.prepare(sounds, tmp_path / "out")
    monkeypatch.setitem(musan.COUNTS, "noise", 3)
    assert len(musan.prepare(sounds, tmp_path / "out", kinds=("noise",))) == 3
    with pytest.raises(UserError, match="choose from music, speech, noise"):
        musan.prepare(sounds, tmp_path / "out", kinds=("hum",))
    with pytest.raises(UserError, match="give the folder musan"):
        musan.prepare(tmp_path, tmp_path / "out")


def test_white_space_in_names_becomes_an_underscore(sounds: Path, tmp_path: Path) -> None:
    folder = sounds / "noise/free-sound"
    (folder / "noise-free-sound-0000.wav").rename(folder / "rain on\u00a0roof.wav")
    (folder / "noise-free-sound-0001.wav").rename(folder / "a b.wav")
    (folder / "noise-free-sound-0002.wav").rename(folder / "a_b.wav")
    folder.rename(sounds / "noise/free sound")
    found = musan.prepare(sounds, tmp_path / "out", kinds=("noise",), partial=True)
    assert sorted(utterance.id for utterance in found.utterances) == [
        "noise/free_sound/a_b.wav",
        "noise/free_sound/a_b.wav_2",
        "noise/free_sound/rain_on_roof.wav",
    ]
    again = read_manifest(tmp_path / "out", "kind")
    assert len(again) == 3 and set(again.labels["kind"].values()) == {"noise"}
    assert [list(seconds / RATE) for seconds in NoiseBank(str(tmp_path / "out"), RATE).lengths] == [
        [1, 1, 1]
    ]


def test_rooms_may_have_white_space_in_their_names(tmp_path: Path) -> None:
    root = trees.rirs_noises(tmp_path).root / "RIRS_NOISES"
    simulated = root / "simulated_rirs"
    (simulated / "smallroom/Room001").rename(simulated / "smallroom/Room 1")
    rirs_noises.prepare(root, tmp_path / "out", partial=True)
    read = read_manifest(tmp_path / "out", "room")
    assert read.labels["room"]["simulated_rirs/smallroom/Room_1/Room001-00001.wav"] == (
        "smallroom/Room_1"
    )


def test_responses_simulated_and_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trees.rirs_noises(tmp_path).root / "RIRS_NOISES"
    with pytest.raises(UserError, match="simulated_rirs: 3 files, where RIRS_NOISES has 60,000"):
        rirs_noises.prepare(root, tmp_path / "out")
    monkeypatch.setattr(rirs_noises, "SIMULATED", 3)
    rirs_noises.prepare(tmp_path, tmp_path / "out")
    read = read_manifest(tmp_path / "out", ["kind", "room"])
    sizes = ("large", "medium", "small")
    assert list(read.labels["room"].values()) == [f"{size}room/Room001" for size in sizes]
    rirs_noises.prepare(root, tmp_path / "out", real=True)
    assert "1 files skipped (1 several channels)" in capsys.readouterr().err
    labels = read_manifest(tmp_path / "out", "kind").labels["kind"]
    assert sorted(labels.values()) == ["real", *["simulated"] * 3]
    responses = load_rirs(str(tmp_path / "out"), RATE, 0.01)
    assert responses.shape == (4, 160)
    assert (responses[:, 0] == 32767).all() and (responses[:, 1:] == 0).all()
