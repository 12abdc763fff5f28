"""egs/real/band_shift.py: on two kinds of noise, the kinds are told apart and their means meet."""

import sys

import numpy as np
import pytest
from builders import ROOT, write_audio

from speechssl.embed.embedder import Embedder
from speechssl.model import Model

RATE = 16000


def noise(number, narrow):
    """A second of noise, up to 8 kHz or up to 3 kHz."""
    spectrum = np.fft.rfft(np.random.default_rng(number).standard_normal(RATE))
    if narrow:
        spectrum[3000:] = 0
    return 0.1 * np.fft.irfft(spectrum, RATE)


@pytest.fixture
def world(tmp_path):
    """An encoder of random weights, and twenty recordings of each kind."""
    for kind in ("wide", "narrow"):
        lines = []
        for number in range(20):
            path = tmp_path / kind / f"{number}.wav"
            write_audio(path, noise(number, kind == "narrow"))
            lines.append(f"{kind}{number} {path}\n")
        (tmp_path / kind / "wav.scp").write_text("".join(lines))
    encoder = {"name": "ecapa", "width": 16, "embedding_dim": 8, "early_statistics": True}
    Model({"n_mels": 40, "normalise": "level"}, encoder).save(tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("count", [1, 7, 19, 20, 39, 40, 41, 1000])
def test_at_most_so_many_utterances_are_taken_from_all_parts(world, monkeypatch, count):
    monkeypatch.syspath_prepend(ROOT / "egs" / "real")
    import band_shift

    taken = [one.id for one in band_shift.chosen([world / "wide", world / "narrow"], count)]
    assert len(taken) == len(set(taken)) == min(count, 40)
    if count > 1:
        narrow = sum(name.startswith("narrow") for name in taken)
        assert abs(narrow - len(taken) / 2) <= 1


def test_the_means_meet_and_wide_recordings_stay(world, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "egs" / "real")
    import band_shift

    words = [world / "model", world / "out", "--wide", world / "wide", "--narrow", world / "narrow"]
    monkeypatch.setattr(sys, "argv", ["band_shift.py", *map(str, words)])
    band_shift.main()
    assert "100.0% of 40 recordings" in capsys.readouterr().out
    rows = {}
    for name in ("model", "out"):
        embedder = Embedder.from_pretrained(world / name)
        for kind in ("wide", "narrow"):
            rows[name, kind] = embedder.embed(sorted((world / kind).glob("*.wav")))
    before = np.linalg.norm(rows["model", "narrow"].mean(0) - rows["model", "wide"].mean(0))
    after = np.linalg.norm(rows["out", "narrow"].mean(0) - rows["out", "wide"].mean(0))
    assert after < before / 3  # twenty of each make no sure judge
    moved = np.linalg.norm(rows["out", "wide"] - rows["model", "wide"], axis=1)
    assert moved.mean() < before / 3
