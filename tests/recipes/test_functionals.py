"""Functionals of sounds whose pitch, loudness and rhythm are known."""

import numpy as np
import pytest
import soundfile
from builders import load_script

RATE = 16000


@pytest.fixture(scope="module")
def script():
    """recipes/emotion/functionals.py, which is no part of a package."""
    return load_script("recipes/emotion/functionals.py")


def buzz(hertz, seconds=2.0):
    """A harmonic sound; `hertz` may change with time, (T,)."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, int(seconds * RATE))) / RATE
    return 0.05 * sum(np.sin(k * phase) / k for k in range(1, 12)).astype(np.float32)


def hiss(seconds, seed=0):
    """A quiet noise, which has no pitch."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    return (0.01 * noise).astype(np.float32)


@pytest.mark.parametrize("hertz", [80.0, 137.0, 220.0, 400.0])
def test_a_steady_voice_has_its_pitch_and_no_jitter(script, hertz):
    found = script.functionals(buzz(hertz))
    assert found["pitch_mean"] == pytest.approx(12 * np.log2(hertz / 27.5), abs=0.1)
    assert found["pitch_range"] < 0.1 and found["jitter"] < 0.002
    assert found["harmonicity_mean"] > 10


def test_an_octave_in_two_seconds_rises_by_six_semitones_a_second(script):
    rising = script.functionals(buzz(110 * 2 ** np.linspace(0, 1, 2 * RATE)))
    assert rising["pitch_rise"] == pytest.approx(6, rel=0.15)
    assert rising["pitch_range"] == pytest.approx(0.6 * 12, rel=0.1)
    assert rising["pitch_median"] == pytest.approx(24 + 6, abs=0.3)


def test_ten_times_the_amplitude_is_twenty_decibels_and_nothing_else(script):
    wave = np.concatenate([buzz(150, 1.0), hiss(0.5)])
    soft, loud = script.functionals(wave), script.functionals(10 * wave)
    for name, value in soft.items():
        shift = 20.0 if name.startswith("loudness_") and "rise" not in name else 0.0
        if name.split("_")[-1] in ("deviation", "range", "rise", "fall"):
            shift = 0.0
        assert loud[name] == pytest.approx(value + shift, abs=0.05, rel=0.01), name


def test_syllables_and_pauses_are_counted(script):
    syllable = buzz(150, 0.3) * np.hanning(int(0.3 * RATE)).astype(np.float32) ** 0.25
    wave = np.concatenate([syllable, hiss(0.2)] * 4)
    found = script.functionals(wave)
    assert found["voiced_per_second"] == pytest.approx(2, rel=0.05)
    assert found["voiced_length"] == pytest.approx(0.3, abs=0.05)
    assert found["unvoiced_length"] == pytest.approx(0.2, abs=0.05)
    assert found["peaks_per_second"] == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize(
    "wave",
    [np.zeros(0), np.zeros(50), np.zeros(8000), hiss(1.0)],
    ids=["0", "50", "silence", "hiss"],
)
def test_without_a_voice_all_is_finite_and_pitch_is_zero(script, wave):
    found = script.functionals(wave.astype(np.float32))
    assert all(np.isfinite(value) for value in found.values())
    assert list(found) == list(script.functionals(buzz(150)))
    assert abs(found["pitch_mean"]) < 60 and found["voiced_length"] < 0.1


def test_it_agrees_with_opensmile_on_pitch_and_loudness(script):
    pytest.importorskip("opensmile", reason="not installed: its licence is the user's to read")
    row_of = script.by_opensmile()
    import opensmile

    names = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02).feature_names
    for hertz in (110.0, 220.0):
        theirs = dict(zip(names, row_of(buzz(hertz)), strict=True))
        ours = script.functionals(buzz(hertz))
        pitch = theirs["F0semitoneFrom27.5Hz_sma3nz_amean"]
        assert ours["pitch_mean"] == pytest.approx(pitch, abs=0.5)


def test_a_row_is_of_the_channel_that_reco2channel_names(script, tmp_path):
    tone = 0.1 * np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "call.wav", np.stack([tone, 0 * tone], axis=1), 16000)
    (tmp_path / "wav.scp").write_text("".join(f"ch{n} {tmp_path}/call.wav\n" for n in (1, 2)))
    (tmp_path / "reco2channel").write_text("ch1 1\nch2 2\n")
    peaks = dict(script.rows([str(tmp_path)], lambda wave: np.abs(wave).max()))
    assert peaks == {"ch1": pytest.approx(0.1, abs=1e-3), "ch2": 0.0}
