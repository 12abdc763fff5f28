"""MUSAN and RIRS_NOISES in miniature, down to what the augmentation makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.augment.noise_bank import NoiseBank, load_rirs
from speechssl.corpora import musan, rirs_noises
from speechssl.data.manifest import read_manifest
from speechssl.errors import UserError

RATE = 16000


def put(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)


def noise(seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE))


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Three noises, two of music, one of speech, in a folder whose own name says speech."""
    root = tmp_path / "speech corpora/musan"
    for number in range(3):
        put(root / f"noise/free-sound/noise-free-sound-000{number}.wav", noise(1))
    for number in range(2):
        put(root / f"music/fma/music-fma-000{number}.wav", noise(2))
    put(root / "speech/librivox/speech-librivox-0000.wav", noise(3))
    (root / "noise/free-sound/LICENSE").write_text("CC BY 3.0")
    return root


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


def test_responses_simulated_and_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "RIRS_NOISES"
    click = np.concatenate([np.zeros(99), [0.9], np.zeros(400)])
    for room in ("small", "large"):
        put(root / f"simulated_rirs/{room}room/Room001/Room001-00001.wav", click)
    real = root / "real_rirs_isotropic_noises"
    put(real / "RVB2014_type1_rir_largeroom1.wav", np.stack([click] * 8, axis=1))
    put(real / "RVB2014_type1_noise_largeroom1.wav", noise(1))
    put(real / "air_type1_air_rir_aula.wav", click)
    put(root / "pointsource_noises/noise-free-sound-0000.wav", noise(1))
    with pytest.raises(UserError, match="simulated_rirs: 2 files, where RIRS_NOISES has 60,000"):
        rirs_noises.prepare(root, tmp_path / "out")
    monkeypatch.setattr(rirs_noises, "SIMULATED", 2)
    rirs_noises.prepare(tmp_path, tmp_path / "out")
    read = read_manifest(tmp_path / "out", ["kind", "room"])
    assert list(read.labels["room"].values()) == ["largeroom/Room001", "smallroom/Room001"]
    rirs_noises.prepare(root, tmp_path / "out", real=True)
    assert "1 files skipped (1 several channels)" in capsys.readouterr().err
    labels = read_manifest(tmp_path / "out", "kind").labels["kind"]
    assert sorted(labels.values()) == ["real", "simulated", "simulated"]
    responses = load_rirs(str(tmp_path / "out"), RATE, 0.01)
    assert responses.shape == (3, 160)
    assert (responses[:, 0] == 32767).all() and (responses[:, 1:] == 0).all()
