"""Kaldi's fbank against torchaudio's and kaldi-native-fbank's."""

import pytest
import torch
from builders import noises
from torchaudio.compliance import kaldi

from speechssl.errors import UserError
from speechssl.features.kaldi import Kaldi


def speech_like(samples, seed=0):
    """Noise whose level rises and falls, with a constant offset, then digital silence."""
    envelope = 0.1 + torch.sin(torch.arange(samples) / 900).square()
    wave = noises(1, samples, seed)[0] * envelope + 0.001
    wave[-samples // 8 :] = 0
    return wave


@pytest.mark.parametrize(
    "window_type, scale", [("povey", 32768.0), ("hamming", 32768.0), ("povey", 1.0)]
)
@pytest.mark.parametrize("rate, n_mels", [(16000, 80), (8000, 40)])
def test_it_is_torchaudios(window_type, scale, rate, n_mels):
    wave = speech_like(2 * rate)
    front_end = Kaldi(
        sample_rate=rate, n_mels=n_mels, window_type=window_type, scale=scale, normalise="none"
    )
    want = kaldi.fbank(
        scale * wave[None].double(),
        num_mel_bins=n_mels,
        sample_frequency=rate,
        window_type=window_type,
        dither=0.0,
    )
    got = front_end(wave[None])[0][0]
    difference = (got - want).abs()
    # float32 against float64: a band that is all but empty in a frame is off by more
    assert (difference < 1e-4).double().mean() > 0.999
    assert difference.max() < 1e-3


@pytest.mark.parametrize("window_type", ["povey", "hamming"])
def test_it_is_kaldi_native_fbanks(window_type):
    native = pytest.importorskip("kaldi_native_fbank", reason="needs kaldi-native-fbank")
    options = native.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = window_type
    options.mel_opts.num_bins = 80
    wave = speech_like(16000, seed=1)
    stream = native.OnlineFbank(options)
    stream.accept_waveform(16000, (32768 * wave).tolist())
    stream.input_finished()
    frames = [torch.from_numpy(stream.get_frame(i).copy()) for i in range(stream.num_frames_ready)]
    got = Kaldi(window_type=window_type, normalise="none")(wave[None])[0][0]
    torch.testing.assert_close(got, torch.stack(frames), atol=1e-4, rtol=0)


def test_the_mean_over_the_utterance_is_subtracted():
    wave = speech_like(16000)[None]
    raw, _ = Kaldi(normalise="none")(wave)
    torch.testing.assert_close(Kaldi()(wave)[0], raw - raw.mean(1, keepdim=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"scale": 0.0}, {"scale": float("nan")}, {"f_max": 9000.0}])
def test_settings_that_cannot_be_are_one_line(settings):
    with pytest.raises(UserError, match="features: "):
        Kaldi(**settings)
