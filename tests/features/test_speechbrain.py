"""SpeechBrain's front end against `speechbrain.lobes.features.Fbank` and its normalisation."""

import pytest
import torch
from builders import noises
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from speechssl.errors import UserError
from speechssl.features.speechbrain import SpeechBrain


def speech_like(samples):
    """Noise whose level falls by 120 dB, so that the limit of 80 dB is felt."""
    return noises(1, samples) * 10 ** (-torch.linspace(0, 6, samples))


@pytest.mark.parametrize(
    "rate, n_mels, n_fft", [(16000, 80, 400), (16000, 24, 400), (8000, 40, 256)]
)
def test_it_is_speechbrains_fbank(rate, n_mels, n_fft):
    wave = speech_like(rate)
    want = Fbank(sample_rate=rate, n_mels=n_mels, n_fft=n_fft)(wave)
    front_end = SpeechBrain(sample_rate=rate, n_mels=n_mels, n_fft=n_fft, normalise="none")
    got, frames = front_end(wave)
    assert frames.tolist() == [want.shape[1]]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


def test_with_sentence_normalisation():
    wave = speech_like(16000)
    normalise = InputNormalization(norm_type="sentence", std_norm=False)
    want = normalise(Fbank(n_mels=80)(wave), torch.ones(1))
    torch.testing.assert_close(SpeechBrain()(wave)[0], want, atol=2e-4, rtol=0)


def test_a_window_shorter_than_the_fft_is_centred_in_it():
    wave = speech_like(8000)
    want = Fbank(n_mels=20, n_fft=512)(wave)
    got, _ = SpeechBrain(n_mels=20, n_fft=512, normalise="none")(wave)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_fft": 300},
        {"n_fft": 1 << 20},
        {"f_max": 9000.0},
        {"top_db": 0.0},
        {"top_db": float("nan")},
    ],
)
def test_settings_that_cannot_be_are_one_line(settings):
    with pytest.raises(UserError, match="features: "):
        SpeechBrain(**settings)
