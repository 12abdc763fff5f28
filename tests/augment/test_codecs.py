"""Codecs: formulas against libsndfile's tables, bands against tones, coders against what they code."""

import io

import numpy as np
import pytest
import soundfile
import torch

from speechssl.augment import acoustics, codecs, effects
from speechssl.augment.augment import Augment
from speechssl.augment.plan import NO_NOISE, NO_ROOM, PLAN, Codec

RATE = 16000
LIBRARIES = list(codecs.CODERS)


def plan_of(codec, count, rate=1.0):
    plan = np.zeros(count, dtype=PLAN)
    plan["noise"] = NO_NOISE
    plan["rir"] = NO_ROOM
    plan["codec"] = codec
    plan["rate"] = rate
    return plan


def voice(seconds=1.5, pitch=120.0):
    """Return a hum of harmonics up to 3 kHz whose loudness moves, as vowels do."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * pitch * k * time + k * k) / k for k in range(1, 26))
    wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return torch.from_numpy((0.2 * wave).astype(np.float32))


def tone(frequency, seconds=1.0):
    return torch.sin(2 * torch.pi * frequency * torch.arange(int(seconds * RATE)) / RATE)[None]


def snr(wave, coded, margin=400):
    """Return dB; a coder may turn the sign (AMR's does) and move the level a little."""
    wave, coded = wave[margin:-margin], coded[margin:-margin]
    cosine = torch.dot(wave, coded).abs() / (wave.norm() * coded.norm())
    assert 0.6 < coded.norm() / wave.norm() < 1.5
    return float(-10 * torch.log10((1 - cosine**2).clamp(min=1e-9)))


def best_snr(wave, coded):
    """Return the SNR at the best of the delays from 0 to 4 ms."""
    return max(snr(wave[: len(wave) - lag], coded[lag:]) for lag in range(64))


@pytest.mark.parametrize("subtype, curve", [("ALAW", acoustics.a_law), ("ULAW", acoustics.mu_law)])
def test_companding_is_that_of_libsndfile(subtype, curve):
    """The tables of G.711 are the curves in straight pieces: within 4 % of the amplitude of them."""
    wave = torch.linspace(-0.98, 0.98, 4001)
    file = io.BytesIO()
    soundfile.write(file, wave.numpy(), 8000, format="WAV", subtype=subtype)
    file.seek(0)
    want = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
    got = curve(wave)
    assert ((got - want).abs() <= 0.06 * wave.abs() + 1e-3).all()
    assert abs(got.unique().numel() - want.unique().numel()) <= 12  # about 256 levels
    assert snr(wave, got) == pytest.approx(snr(wave, want), abs=1.0)


def test_a_law_is_its_formula():
    """Steps of equal size in the compressed domain: x = 1 / A is where the two pieces meet."""
    amplitude = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 0.999 + 1e-4
    coded = acoustics.a_law(amplitude)

    def compress(x):
        x = x.double() * 87.6
        return torch.where(x < 1, x, 1 + x.log()) / (1 + np.log(87.6))

    places = compress(coded) * 128 - 0.5
    assert (places - places.round()).abs().max() < 1e-3
    assert (compress(coded) - compress(amplitude)).abs().max() <= 0.5 / 128 + 1e-6
    assert (
        torch.equal(acoustics.a_law(-amplitude), -coded)
        and acoustics.a_law(torch.zeros(3)).sum() == 0
    )


@pytest.mark.parametrize(
    "frequency, kept", [(300.0, 1.0), (3500.0, 1.0), (4400.0, 0.0), (7000.0, 0.0)]
)
def test_narrow_band_keeps_what_is_below_4_khz(frequency, kept):
    wave = tone(frequency)
    out = effects.code(wave.clone(), plan_of(Codec.NARROW_BAND, 1), RATE)
    assert out.shape == wave.shape
    middle = slice(2000, -2000)
    assert (out[0, middle] - kept * wave[0, middle]).abs().max() < 0.02


def test_half_rate_is_the_tone_at_half_the_rate():
    wave = tone(1000.0)
    half = acoustics.to_half_rate(wave, 16384 + 1024)[0]
    assert (half[500:7500] - wave[0, 1000:15000:2]).abs().max() < 0.01


@pytest.mark.parametrize(
    "codec, low, high",
    [
        (Codec.NARROW_BAND, 25, 120),
        (Codec.G711_MU, 25, 45),
        (Codec.G711_A, 25, 45),
        (Codec.GSM, 3, 25),
        (Codec.G721, 12, 40),
        (Codec.AMR, 3, 25),
        (Codec.OPUS, 8, 60),
        (Codec.MP3, 10, 80),
    ],
)
def test_coders_keep_the_voice_with_their_noise(codec, low, high):
    """Aligned, at the same level, and with an error as large as such coders have."""
    wave = voice()
    out = effects.code(wave[None].clone(), plan_of(codec, 1), RATE)[0]
    assert out.shape == wave.shape and out.isfinite().all()
    assert low < best_snr(wave, out) < high
    if codec in effects.AT_8_KHZ:
        spectrum = torch.fft.rfft(out).abs().square()
        share = spectrum[int(4100 / RATE * len(out)) :].sum() / spectrum.sum()
        assert share < 1e-4


def test_amr_takes_its_lowest_and_its_highest_rate():
    wave = voice()[None]
    low, high = (
        effects.code(wave.clone(), plan_of(Codec.AMR, 1, rate), RATE) for rate in (0.0, 1.0)
    )
    assert not torch.allclose(low, high, atol=0.01)


@pytest.mark.parametrize("codec", [Codec.OPUS, Codec.MP3])
def test_more_bits_less_error(codec):
    wave = voice()

    def best(rate):
        out = effects.code(wave[None].clone(), plan_of(codec, 1, rate), RATE)[0]
        return best_snr(wave, out)

    assert best(1.0) > best(0.0) + 2


def test_crops_that_no_codec_concerns_stay_bit_for_bit():
    waves = torch.stack([voice(), voice(pitch=200.0), torch.zeros(24000), voice(pitch=90.0)])
    for codec in Codec:
        plan = plan_of(codec, 4)
        plan["cutoff"], plan["bits"] = 4000.0, 8
        plan["codec"][3] = Codec.NONE
        out = effects.code(waves.clone(), plan, RATE)
        assert torch.equal(out[3], waves[3]) and not out[2].any()
        assert codec == Codec.NONE or not torch.equal(out[:2], waves[:2])
        alone = torch.stack(
            [effects.code(waves[i : i + 1].clone(), plan[i : i + 1], RATE)[0] for i in range(4)]
        )
        torch.testing.assert_close(out, alone, atol=2e-3, rtol=0)


def test_codecs_are_drawn_from_the_list_and_a_repeated_one_more_often():
    augment = Augment(
        RATE, noise_prob=0.0, rir_prob=0.0, codec_prob=1.0, codecs=["gsm", "mp3", "gsm"]
    )
    plan = augment.draw(np.random.default_rng(0), 3000, RATE)
    assert set(plan["codec"]) == {Codec.GSM, Codec.MP3}
    assert (plan["codec"] == Codec.GSM).mean() == pytest.approx(2 / 3, abs=0.03)
    assert plan["rate"].min() < 0.01 and plan["rate"].max() > 0.99


def test_band_share_limits_so_many_filters():
    augment = Augment(RATE, noise_prob=0.0, rir_prob=0.0, filter_prob=1.0, band_share=0.8)
    plan = augment.draw(np.random.default_rng(0), 2000, RATE)
    assert (plan["band"][:, 1] > 0).mean() == pytest.approx(0.8, abs=0.03)
