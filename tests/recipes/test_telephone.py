"""egs/real/telephone.py: what is left of a voice, and what a directory keeps."""

import sys

import numpy as np
import pytest
import soundfile
from builders import load_script, write_audio

from speechssl.data.manifest import read_manifest

telephone = load_script("egs/real/telephone.py")

RATE = 8000


@pytest.mark.parametrize("number", range(4))  # of the coders
def test_the_band_is_300_to_3400_hz(number):
    """Tones at equal level: 150 Hz is 24 dB down, 3800 Hz 5 dB (a fourth-order Butterworth band)."""
    time = np.arange(2 * RATE) / RATE
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (150.0, 1000.0, 3800.0))
    out = telephone.on_the_telephone((0.1 * tones).astype(np.float32), number)
    spectrum = np.abs(np.fft.rfft(out[1000 : 1000 + RATE] * np.hanning(RATE)))
    low, middle, high = (spectrum[hertz - 5 : hertz + 6].max() for hertz in (150, 1000, 3800))
    assert low < 0.15 * middle and high < 0.65 * middle
    assert np.abs(out).max() < 0.6


def test_silence_stays_silent():
    assert not telephone.on_the_telephone(np.zeros(RATE, np.float32), 0).any()


def test_a_directory_keeps_its_ids_labels_and_trials(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(16000).astype(np.float32))
    lines = "".join(f"{name} {tmp_path}/{name}.wav\n" for name in ("a", "b"))
    (source / "wav.scp").write_text(lines)
    (source / "utt2spk").write_text("a s1\nb s2\n")
    (source / "trials").write_text("a b nontarget\n")
    monkeypatch.setattr(sys, "argv", ["telephone.py", str(source), str(tmp_path / "out")])
    telephone.main()
    manifest = read_manifest(tmp_path / "out", labels=("spk",))
    assert manifest.ids == ["a", "b"] and manifest.labels["spk"] == {"a": "s1", "b": "s2"}
    assert (tmp_path / "out" / "trials").read_text() == "a b nontarget\n"
    info = soundfile.info(manifest.utterances[0].path)
    assert info.samplerate == RATE and info.frames == RATE


def test_a_side_of_a_call_is_the_channel_that_reco2channel_names(tmp_path, monkeypatch):
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "call.wav", np.stack([tone, 0 * tone], axis=1), 16000)
    source = tmp_path / "source"
    source.mkdir()
    (source / "wav.scp").write_text("".join(f"ch{n} {tmp_path}/call.wav\n" for n in (1, 2)))
    (source / "reco2channel").write_text("ch1 1\nch2 2\n")
    monkeypatch.setattr(sys, "argv", ["telephone.py", str(source), str(tmp_path / "out")])
    telephone.main()
    left, right = (one.read(RATE) for one in read_manifest(tmp_path / "out"))
    assert np.abs(left).max() == pytest.approx(0.1, abs=0.02) and not right.any()


def test_mixed_leaves_every_other_recording_as_it_is_and_every_takes_some(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(6):
        write_audio(tmp_path / "audio" / f"{number}.wav", 0.1 * rng.standard_normal(8000))
    lines = [f"u{number} {tmp_path}/audio/{number}.wav\n" for number in range(6)]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "wav.scp").write_text("".join(lines))
    monkeypatch.setattr(
        sys, "argv", ["x", str(tmp_path / "source"), str(tmp_path / "mixed"), "--mixed"]
    )
    telephone.main()
    rates = [soundfile.info(one.path).samplerate for one in read_manifest(tmp_path / "mixed")]
    assert rates == [8000, 16000] * 3
    monkeypatch.setattr(
        sys, "argv", ["x", str(tmp_path / "source"), str(tmp_path / "some"), "--every", "4"]
    )
    telephone.main()
    assert [one.id for one in read_manifest(tmp_path / "some")] == ["u0", "u4"]
