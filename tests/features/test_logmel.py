"""Log-mels against librosa and direct numpy, masks, invariances."""

import librosa
import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from speechssl.errors import UserError
from speechssl.features.logmel import LogMel, mel_filters, sliding_mean


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_filters_are_librosas_htk_filters():
    ours = mel_filters(16000, 512, 80, 20.0, 7600.0).numpy().T
    theirs = librosa.filters.mel(
        sr=16000, n_fft=512, n_mels=80, fmin=20.0, fmax=7600.0, htk=True, norm=None
    )
    nonempty = theirs.sum(axis=1) > 0
    assert (
        nonempty.sum() >= 79
    )  # the lowest band may be narrower than a bin; then we take the nearest bin
    np.testing.assert_allclose(ours[nonempty], theirs[nonempty], atol=1e-5)
    assert (ours.sum(axis=1) > 0).all()


def test_matches_librosa_on_uncentred_frames():
    wave = noise(1, 16000)
    got, lengths = LogMel(normalise="none")(wave)
    spectrum = librosa.stft(
        wave[0].numpy(), n_fft=512, hop_length=160, win_length=400, center=False
    )
    # librosa centres the 400-sample window in the 512-point frame: its frame starts 56 samples
    # earlier.
    power = np.abs(spectrum) ** 2
    mel = librosa.feature.melspectrogram(
        S=power, sr=16000, n_mels=80, fmin=20.0, fmax=7600.0, htk=True, norm=None, n_fft=512
    )
    shifted, _ = LogMel(normalise="none")(wave[:, 56:])
    frames = min(mel.shape[1], shifted.shape[1])
    np.testing.assert_allclose(
        shifted[0, :frames, 1:].numpy(), np.log(mel.T[:frames, 1:] + 1e-7), atol=2e-4
    )
    assert lengths.tolist() == [1 + (16000 - 400) // 160] and got.shape == (
        1,
        1 + (16000 - 400) // 160,
        80,
    )


@pytest.mark.parametrize("preemphasis", [0.0, 0.97])
def test_matches_direct_computation(preemphasis):
    wave = noise(2, 1000, seed=1)
    model = LogMel(normalise="none", preemphasis=preemphasis, n_mels=20)
    got, _ = model(wave)
    x = wave.double().numpy()
    x = np.concatenate([x[:, :1], x[:, 1:] - preemphasis * x[:, :-1]], axis=1) if preemphasis else x
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for frame in range(got.shape[1]):
        spectrum = np.fft.rfft(x[:, frame * 160 : frame * 160 + 400] * window, n=512)
        want = np.log(np.abs(spectrum) ** 2 @ model.filters.double().numpy() + 1e-7)
        np.testing.assert_allclose(got[:, frame].numpy(), want, atol=1e-4)


@pytest.mark.parametrize("window_type", ["povey", "hamming"])
def test_kaldis_settings_are_torchaudios_kaldi_fbank(window_type):
    wave = noise(1, 8000) + 0.3  # a constant offset, which Kaldi takes from each frame
    model = LogMel(
        window_type=window_type,
        preemphasis=0.97,
        remove_dc_offset="frame",
        filter_scale="mel",
        normalise="none",
        floor=1e-10,
    )
    want = kaldi.fbank(
        wave.double(),
        window_type=window_type,
        num_mel_bins=80,
        low_freq=20.0,
        high_freq=7600.0,
        dither=0.0,
    )
    got = model(wave)[0][0]
    assert got.shape == want.shape
    # Ours gives the band that is narrower than a bin its nearest bin; theirs is empty.
    nonempty = want.exp().mean(0) > 1e-6
    assert nonempty.sum() >= 79
    torch.testing.assert_close(got[:, nonempty].double(), want[:, nonempty], atol=2e-3, rtol=0)


def test_the_mean_of_an_utterance_goes_before_preemphasis():
    wave = noise(2, 4000, seed=3)
    model = LogMel(normalise="none", preemphasis=0.97, remove_dc_offset="utterance")
    plain = LogMel(normalise="none", preemphasis=0.97)
    offset = torch.tensor([[0.5], [-2.0]])
    centred = wave - wave.mean(1, keepdim=True)
    torch.testing.assert_close(model(wave + offset)[0], plain(centred)[0], atol=2e-3, rtol=0)
    assert (plain(wave + offset)[0] - plain(centred)[0]).abs().max() > 0.5


@pytest.mark.parametrize("offset", ["none", "frame", "utterance"])
@pytest.mark.parametrize("normalise", ["mean", "standard", "sliding", "level", "none"])
def test_batched_equals_alone(normalise, offset):
    model = LogMel(
        normalise=normalise,
        context=30,
        remove_dc_offset=offset,
        preemphasis=0.97 * (offset != "none"),
    )
    sizes = torch.tensor([16000, 9123, 400, 399, 7, 5000])
    waves = 5.0 * noise(6, 16000, seed=2)  # what lies beyond the lengths is loud
    features, lengths = model(waves, sizes)
    for row, size in enumerate(sizes.tolist()):
        alone, _ = model(waves[row : row + 1, :size])
        assert lengths[row] == alone.shape[1] == max(1, 1 + (size - 400) // 160)
        torch.testing.assert_close(features[row, : lengths[row]], alone[0], atol=1e-5, rtol=0)
        assert (features[row, lengths[row] :] == 0).all()


def test_mean_normalisation_cancels_gain():
    model, wave = LogMel(), noise(2, 16000)
    torch.testing.assert_close(model(wave)[0], model(0.25 * wave)[0], atol=1e-3, rtol=0)
    assert model(wave)[0].mean(dim=1).abs().max() < 1e-4


def test_standard_normalisation_is_instance_norm():
    wave = noise(3, 16000)
    raw = LogMel(normalise="none")(wave)[0]
    want = torch.nn.InstanceNorm1d(80)(raw.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(LogMel(normalise="standard")(wave)[0], want, atol=1e-4, rtol=0)


def test_level_normalisation_cancels_gain_and_keeps_the_spectrum():
    model, wave = LogMel(normalise="level"), noise(2, 16000)
    torch.testing.assert_close(model(wave)[0], model(0.25 * wave)[0], atol=1e-3, rtol=0)
    raw, level = LogMel(normalise="none")(wave)[0], model(wave)[0]
    torch.testing.assert_close(level, raw - raw.mean(dim=(1, 2), keepdim=True), atol=1e-4, rtol=0)
    assert level.mean(dim=1).std(dim=1).min() > 0.3  # wide bands gather more of a white noise


@pytest.mark.parametrize("frequency", [440.0, 3000.0])
def test_sine_peaks_in_its_band(frequency):
    wave = torch.sin(2 * torch.pi * frequency * torch.arange(16000) / 16000)[None]
    peak = LogMel(normalise="none")(wave)[0].mean(dim=1).argmax().item()
    centres = librosa.mel_frequencies(n_mels=82, fmin=20.0, fmax=7600.0, htk=True)[1:-1]
    assert abs(peak - int(np.abs(centres - frequency).argmin())) <= 1


@pytest.mark.parametrize("frames,context", [(100, 30), (20, 30), (31, 31)])
def test_sliding_mean_is_kaldis(frames, context):
    features = torch.randn(1, frames, 3) + 5
    got = sliding_mean(features, context)[0]
    for t in range(frames):  # apply-cmvn-sliding --center=true, read as its documentation says
        begin, end = t - context // 2, t - context // 2 + context
        if begin < 0:
            begin, end = 0, end - begin
        if end > frames:
            begin, end = max(0, begin - (end - frames)), frames
        torch.testing.assert_close(got[t], features[0, begin:end].mean(dim=0), atol=1e-5, rtol=0)


def test_silence_is_finite_and_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = LogMel()(torch.zeros(1, 4000))
    assert features.dtype == torch.float32 and features.isfinite().all()


def test_blocks_change_nothing():
    wave = noise(3, 400 + 160 * 3000)
    together, _ = LogMel(normalise="none")(wave)
    torch.testing.assert_close(
        together[1:2], LogMel(normalise="none")(wave[1:2])[0], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"n_mels": 1 << 24},
        {"frame_length": 1e9},
        {"frame_length": float("inf")},
        {"frame_shift": float("nan")},
        {"sample_rate": 1_000_000, "frame_length": 0.9, "n_mels": 500},
    ],
)
def test_settings_that_would_fill_the_memory_are_refused(settings):
    with pytest.raises(UserError, match="features: "):
        LogMel(**settings)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="7600"):
        LogMel(sample_rate=8000)
    with pytest.raises(UserError, match="normalise"):
        LogMel(normalise="variance")
