"""Telling telephone recordings from wide-band ones."""

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio.bandwidth import has_narrow_band, is_narrow
from speechssl.augment import acoustics

RATE = 16000


def speech_like(seed=0, seconds=2.0):
    """Noise whose power falls by 12 dB an octave from 500 Hz on, as that of speech does."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.normal(size=round(seconds * RATE)))
    frequency = np.fft.rfftfreq(round(seconds * RATE), 1 / RATE)
    wave = np.fft.irfft(spectrum / (1 + (frequency / 500) ** 2))
    return (0.1 * wave / wave.std()).astype(np.float32)


def cut_above(wave, edge):
    """The wave without what is above `edge` Hz."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / RATE) > edge] = 0
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0])
def test_a_band_to_3400_hz_is_narrow_and_one_to_8000_is_not(seconds):
    wave = speech_like(seconds=2.0)
    count = round(seconds * RATE)
    assert not has_narrow_band(wave[:count])
    assert has_narrow_band(cut_above(wave, 3400.0)[:count])
    assert not has_narrow_band(cut_above(wave, 5500.0)[:count])  # old game dialogue


def test_how_loud_it_is_does_not_matter_and_silence_is_not_narrow():
    wave = speech_like()
    for gain in (1e-4, 1.0, 1e4):
        assert not has_narrow_band(gain * wave)
        assert has_narrow_band(gain * cut_above(wave, 3400.0))
    assert not has_narrow_band(np.zeros(RATE, np.float32))
    assert not has_narrow_band(np.zeros(0, np.float32))


def test_files_at_any_rate(tmp_path):
    """A telephone's file at 8 kHz, and what came from one and was written at 16 bits and 16 or 44.1 kHz."""
    wave = speech_like()
    narrow = cut_above(wave, 3400.0)
    coded = acoustics.mu_law(torch.from_numpy(narrow[::2])[None])[0].numpy()
    soundfile.write(tmp_path / "call.wav", coded, 8000)
    soundfile.write(tmp_path / "copy.wav", narrow, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "studio.flac", wave, RATE)
    for name, expected in (("call.wav", True), ("copy.wav", True), ("studio.flac", False)):
        assert is_narrow(str(tmp_path / name)) == expected


def test_only_the_piece_and_the_channel_that_are_asked_for_count(tmp_path):
    wave = speech_like(seconds=4.0)
    narrow = cut_above(wave, 3400.0)
    changing = np.concatenate([wave[: 2 * RATE], narrow[2 * RATE :]])
    soundfile.write(tmp_path / "two.wav", np.stack([changing, narrow], axis=1), RATE)
    two = str(tmp_path / "two.wav")
    assert not is_narrow(two, 0.0, 1.9, 1)
    assert is_narrow(two, 2.1, None, 1)
    assert is_narrow(two, 0.0, 1.9, 2)
    assert not is_narrow(two)


def test_a_side_that_listens_first_is_known_by_what_it_says(tmp_path):
    """Half a minute of what rounding leaves of silence has a wide band, if any."""
    wave = speech_like(seconds=2.0)
    silence = np.random.default_rng(0).choice([0, 1 / 32768], 30 * RATE).astype(np.float32)
    late = np.concatenate([silence, cut_above(wave, 3400.0)])
    sides = np.stack([np.concatenate([silence, wave]), late], axis=1)
    soundfile.write(tmp_path / "call.wav", sides, RATE, subtype="PCM_16")
    call = str(tmp_path / "call.wav")
    assert not is_narrow(call, channel=1)
    assert is_narrow(call, channel=2)
    assert not is_narrow(call, 0.0, 25.0, 2)
    assert has_narrow_band(late)
    assert not has_narrow_band(silence)
