"""Augmentation: identities, realised levels, purity."""

import numpy as np
import pytest
import soundfile
import torch

from speechssl.augment import acoustics
from speechssl.augment.augment import Augment
from speechssl.augment.draws import DRAW_NAMES, UniformDraws
from speechssl.augment.noise_bank import NoiseBank, aligned
from speechssl.augment.specaugment import SpecAugment
from speechssl.errors import UserError

RATE = 16000


def voices(count=4, seconds=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, int(seconds * RATE), generator=generator)


def draw(augment, count=4, samples=RATE, seed=0, level="full"):
    return augment.draw(np.random.default_rng(seed), count, samples, level)


@pytest.fixture
def noises(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "noise"
    for name, seconds in [("hum/a.wav", 0.4), ("music/b.wav", 3.0), ("speech/c.wav", 2.0)]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * RATE)), RATE)
    (folder / "hum" / "broken.wav").write_bytes(b"RIFF")
    return str(folder)


@pytest.fixture
def deltas(tmp_path):
    folder = tmp_path / "rir"
    folder.mkdir()
    response = np.zeros(4000)
    response[123] = 0.7
    soundfile.write(folder / "delta.wav", response, RATE)
    return str(folder)


def only(**keywords):
    off = {
        "noise_prob": 0.0,
        "rir_prob": 0.0,
        "babble_prob": 0.0,
        "filter_prob": 0.0,
        "codec_prob": 0.0,
    }
    return Augment(RATE, **(off | keywords))


def test_all_off_is_the_identity():
    waves = voices()
    for augment, level in [
        (only(), "full"),
        (Augment(RATE, rir_prob=1.0, filter_prob=1.0), "none"),
    ]:
        assert torch.equal(augment.apply(waves, draw(augment, level=level)), waves)


def test_choices_are_a_pure_function_of_the_generator(noises):
    augment = Augment(RATE, noise=noises, filter_prob=0.5, codec_prob=0.5)
    assert (draw(augment) == draw(augment)).all() and (draw(augment) != draw(augment, seed=1)).any()


def test_every_name_has_one_number_and_no_two_names_share_one():
    draws = UniformDraws(np.random.default_rng(3), 5, DRAW_NAMES)
    columns = [draws.uniform(name).reshape(5, -1) for name in DRAW_NAMES]
    assert np.array_equal(np.concatenate(columns, axis=1), np.random.default_rng(3).random((5, 47)))


def test_draws_reach_from_low_to_high():
    draws = UniformDraws(np.random.default_rng(0), 10_000, {"a": 1, "b": 2})
    assert draws.between("a", -3.0, 12.0).min() == pytest.approx(-3, abs=0.01)
    assert draws.between("b", -3.0, 12.0).max() == pytest.approx(12, abs=0.01)
    assert sorted(set(draws.integers("a", 7, 12).tolist())) == [7, 8, 9, 10, 11]
    assert draws.happens("a", 0.3).mean() == pytest.approx(0.3, abs=0.02)
    assert not draws.happens("a", 0.0).any() and draws.happens("a", 1.0).all()


@pytest.mark.parametrize("level, half, easier", [("full", 1.0, 0.0), ("mild", 0.5, 5.0)])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_seed_means_what_it_always_meant(noises, deltas, seed, level, half, easier):
    """The plan from the 47 numbers of each crop by their places, as it was first written."""
    augment = Augment(
        RATE,
        noise=noises,
        rir=deltas,
        noise_prob=0.6,
        rir_prob=0.7,
        babble_prob=0.5,
        filter_prob=0.6,
        codec_prob=0.6,
        gain=[-6.0, 6.0],
    )
    plan = draw(augment, 32, seed=seed, level=level)
    u = np.random.default_rng(seed).random((32, 47))
    noise, babble, room, filtered, coded = (
        u[:, column] < half * probability
        for column, probability in [(0, 0.6), (1, 0.5), (2, 0.7), (4, 0.6), (5, 0.6)]
    )
    simulated = u[:, 3] < 0.5
    place, kind = augment.bank.pick(u[:, 6], u[:, 7], u[:, 8], RATE)
    low, high = np.array([[0.0, 15.0], [5.0, 15.0], [13.0, 20.0]])[kind].T
    tilt = (2.0 * u[:, 17, None] - 1.0) * np.linspace(-1.0, 1.0, 8)
    eq = np.clip(tilt + 0.7 * (2.0 * u[:, 27:35] - 1.0), -1.0, 1.0) * (half * 12.0)
    limited = filtered & (u[:, 18] < 0.3)
    taps = u[:, 35:].reshape(32, 6, 2)
    want = {
        "noise": np.where(noise, place, -1),
        "snr": low + u[:, 9] * (high - low) + easier,
        "voices": np.where(babble, 3 + (u[:, 10] * 4).astype(int), 0),
        "neighbour": (u[:, 11] * 1000).astype(int),
        "babble_snr": 13.0 + u[:, 12] * 7.0 + easier,
        "rir": np.where(room, np.where(simulated, -2, 0), -1),
        "t60": 0.1 + u[:, 14] * (0.8 - 0.1),
        "drr": -3.0 + 15.0 * u[:, 15],
        "tail": (u[:, 16] * 2**18).astype(int),
        "taps": np.stack([0.001 + 0.039 * taps[..., 0], 2.0 * taps[..., 1] - 1.0], axis=-1),
        "eq": np.where(filtered[:, None], eq, 0.0),
        "band": np.where(
            limited[:, None],
            np.stack([50.0 * 8.0 ** u[:, 19], 3000.0 * (8.0 / 3.0) ** u[:, 20]], axis=1),
            0.0,
        ),
        "codec": np.where(coded, 1 + (u[:, 21] * 4).astype(int), 0),
        "cutoff": 3000.0 + 4000.0 * u[:, 22],
        "bits": 7 + (u[:, 23] * 5).astype(int),
        "rate": u[:, 26],
        "gain": -6.0 + u[:, 25] * 12.0,
        "dither": np.full(32, -1),  # off; its number is the 25th of each crop
    }
    assert set(want) == set(plan.dtype.names)
    for name, values in want.items():
        assert np.array_equal(plan[name], values.astype(plan[name].dtype)), name


def test_dither_is_white_noise_of_its_level_and_a_function_of_the_seed():
    augment = only(dither=1.0, seed=3)
    silence = torch.zeros(4, RATE)
    plan = draw(augment)
    noise = augment.apply(silence, plan) * 32768
    assert noise.std(dim=1).tolist() == pytest.approx([1.0] * 4, abs=0.03)
    assert noise.mean(dim=1).abs().max() < 0.05
    lagged = (noise[:, 1:] * noise[:, :-1]).mean(dim=1)
    assert lagged.abs().max() < 0.05  # white
    assert len({tuple(row[:4].tolist()) for row in noise}) == 4  # each crop has its own
    again = only(dither=1.0, seed=3)
    assert torch.equal(again.apply(silence, draw(again)) * 32768, noise)
    assert not torch.equal(only(dither=1.0, seed=4).apply(silence, plan) * 32768, noise)
    one_by_one = torch.cat([augment.apply(silence[i : i + 1], plan[i : i + 1]) for i in range(4)])
    assert torch.equal(one_by_one * 32768, noise)


def test_dither_is_for_crops_that_are_augmented_and_changes_no_other_choice(noises):
    assert torch.equal(
        only(dither=1.0).apply(voices(), draw(only(dither=1.0), level="none")), voices()
    )
    plain = draw(Augment(RATE, noise=noises), 32)
    dithered = draw(Augment(RATE, noise=noises, dither=2.0), 32)
    assert (dithered["dither"] >= 0).all()
    for name in set(plain.dtype.names) - {"dither"}:
        assert np.array_equal(plain[name], dithered[name]), name
    for wrong in (-1.0, 32768.0, float("nan")):
        with pytest.raises(UserError, match="dither"):
            only(dither=wrong)


def test_dither_of_crops_longer_than_its_table_goes_round():
    augment = only(dither=1.0)
    noise = augment.apply(torch.zeros(1, 2**18 + 100), draw(augment, 1, 2**18 + 100))
    assert torch.equal(noise[0, :100], noise[0, 2**18 :])


def test_exclusive_crops_have_noise_or_a_room_with_the_stated_shares(noises, deltas):
    both = {"noise": noises, "rir": deltas, "noise_prob": 0.5, "rir_prob": 0.3}
    plan = draw(Augment(RATE, **both, exclusive=True), 4000)
    has_noise = plan["noise"] >= 0
    has_room = plan["rir"] != -1
    assert not (has_noise & has_room).any()
    assert (has_noise.mean(), has_room.mean()) == pytest.approx((0.5, 0.3), abs=0.03)
    independent = draw(Augment(RATE, **both), 4000)
    together = (independent["noise"] >= 0) & (independent["rir"] != -1)
    assert together.mean() == pytest.approx(0.15, abs=0.03)
    with pytest.raises(UserError, match="exclusive"):
        Augment(RATE, noise_prob=0.7, rir_prob=0.4, exclusive=True)


def test_noise_has_the_drawn_snr(noises):
    augment = only(
        noise=noises,
        noise_prob=1.0,
        snr=[3.0, 9.0],
        snr_music=[10.0, 12.0],
        snr_speech=[20.0, 22.0],
    )
    waves, plan = voices(60), draw(augment, 60)
    noise = augment.apply(waves, plan) - waves
    realised = 20 * torch.log10(waves.norm(dim=1) / noise.norm(dim=1)).numpy()
    np.testing.assert_allclose(realised, plan["snr"], atol=0.1)
    assert all(
        any(low <= snr <= high for low, high in [(3, 9), (10, 12), (20, 22)])
        for snr in realised + 1e-3
    )
    assert min(realised) < 10 < 13 < max(realised)


def test_mild_is_milder(noises):
    augment = Augment(RATE, noise=noises, noise_prob=0.8, rir_prob=0.8)
    full, mild = draw(augment, 2000), draw(augment, 2000, level="mild")
    for name, nothing in [("noise", -1), ("rir", -1)]:
        rates = [float((plan[name] != nothing).mean()) for plan in (full, mild)]
        assert rates[0] == pytest.approx(0.8, abs=0.04) and rates[1] == pytest.approx(0.4, abs=0.04)
    assert (mild["snr"] - full["snr"]).mean() == pytest.approx(5.0)


def test_delta_response_is_the_identity(deltas):
    augment = only(rir=deltas, rir_prob=1.0, simulate_prob=0.0)
    waves = voices(10)
    torch.testing.assert_close(augment.apply(waves, draw(augment, 10)), waves, atol=1e-5, rtol=0)


def test_convolution_with_context_is_that_of_the_longer_wave(tmp_path):
    rng = np.random.default_rng(1)
    response = rng.standard_normal(3000) * np.exp(-np.arange(3000) / 500)
    response[0] = 8.0
    soundfile.write(tmp_path / "room.wav", 0.05 * response, RATE, subtype="FLOAT")
    augment = only(rir=str(tmp_path), rir_prob=1.0, simulate_prob=0.0, context=0.25)
    waves = voices(3, 1.25)
    got = augment.apply(waves, draw(augment, 3), context=4000)
    unit = response / np.linalg.norm(response)
    for row in range(3):
        want = np.convolve(waves[row].numpy(), unit)[4000:20000]
        np.testing.assert_allclose(got[row].numpy(), want, atol=2e-4)


def test_simulated_room_decays_by_60_db():
    table = acoustics.tail_table(RATE, 1 << 16, 0)
    t60, drr = torch.tensor([0.3]), torch.tensor([0.0])
    room = acoustics.simulated_rooms(
        t60, drr, torch.tensor([5]), torch.zeros(1, 6, 2), table, RATE // 2, RATE
    )[0].numpy()
    assert room[0] == 1 and np.sum(room[1:] ** 2) == pytest.approx(1.0, rel=1e-3)  # DRR 0 dB
    spectrum = np.fft.rfft(room)
    spectrum[np.fft.rfftfreq(len(room), 1 / RATE) > 1500] = 0
    low = np.fft.irfft(spectrum)
    levels = [10 * np.log10(np.mean(low[a : a + 800] ** 2)) for a in (800, 3200)]
    assert levels[0] - levels[1] == pytest.approx(60 * 0.15 / 0.3, abs=4)


def test_responses_are_aligned_and_cut():
    response = np.zeros(2000)
    response[700], response[900], response[1999] = -0.5, 0.25, 0.1
    out = aligned(response, 500)
    assert out[0] == -32767 and out[200] == 16384 and len(out) == 500 and np.count_nonzero(out) == 2


def test_equaliser_has_the_drawn_gain():
    eq = torch.tensor([[0.0, 0, 6, 6, 0, 0, -12, -12]])
    gain = acoustics.channel_gain(eq, torch.zeros(1, 2), 16000, RATE)[0].numpy()
    knots = np.geomspace(60, 8000, 8)
    for frequency, want in zip(knots, eq[0].tolist(), strict=True):
        assert 20 * np.log10(gain[round(frequency)]) == pytest.approx(want, abs=0.4)
    band = acoustics.channel_gain(torch.zeros(1, 8), torch.tensor([[300.0, 3400.0]]), 16000, RATE)[
        0
    ].numpy()
    assert 20 * np.log10(band[[300, 3400]]) == pytest.approx([-3.01, -3.01], abs=0.02)
    assert band[1000] > 0.999 and band[75] < 0.01 and band[7000] < 0.1


def test_mu_law_is_fine_for_speech_levels():
    wave = torch.linspace(-1, 1, 1001)
    coded = acoustics.mu_law(wave)
    assert coded.unique().numel() <= 255 and coded[500] == 0
    assert ((coded - wave).abs() <= 0.03 * wave.abs() + 1e-3).all()


def test_babble_is_others_of_the_block_at_its_snr():
    augment = only(babble_prob=1.0)
    waves = torch.stack(
        [torch.eye(12) * (1 + torch.arange(12.0))[:, None]] * 2
    )  # row i: one sample, at i
    waves = torch.nn.functional.pad(waves, (0, 20))
    plan = draw(augment, 24, 32).reshape(2, 12)
    mixed = augment.apply(waves, plan) - waves
    realised = 20 * torch.log10(waves.norm(dim=-1) / mixed.norm(dim=-1))
    np.testing.assert_allclose(realised.numpy(), plan["babble_snr"], atol=0.01)
    for row in range(12):
        heard = set(torch.nonzero(mixed[0, row]).flatten().tolist())
        assert row not in heard and all(other // 8 == row // 8 for other in heard)
        assert len(heard) == min(plan["voices"][0, row], 7 if row < 8 else 3)
    split = torch.cat(
        [augment.apply(waves[:, :8], plan[:, :8]), augment.apply(waves[:, 8:], plan[:, 8:])], dim=1
    )
    torch.testing.assert_close(split, augment.apply(waves, plan))


def test_silence_stays_finite(noises, deltas):
    augment = Augment(
        RATE,
        noise=noises,
        rir=deltas,
        noise_prob=1.0,
        rir_prob=1.0,
        babble_prob=1.0,
        filter_prob=1.0,
        codec_prob=1.0,
    )
    waves = torch.cat([torch.zeros(8, RATE), 1e-6 * voices(8)])
    out = augment.apply(waves, draw(augment, 16))
    assert out.isfinite().all() and out.shape == waves.shape


def test_batch_equals_one_by_one(noises):
    augment = Augment(
        RATE, noise=noises, rir_prob=0.7, filter_prob=0.5, codec_prob=0.5, gain=[-6.0, 6.0]
    )
    waves, plan = voices(9), draw(augment, 9)
    before = waves.clone()
    together = augment.apply(waves, plan)
    alone = torch.cat([augment.apply(waves[i : i + 1], plan[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(
        together, alone, atol=2e-3, rtol=0
    )  # a quantiser may round a tie either way
    assert (together - alone).abs().mean() < 1e-5 and torch.equal(waves, before)


def test_bank_reads_kaldi_and_tsv_and_leaves_broken_files_out(noises, tmp_path):
    bank = NoiseBank(noises, RATE)
    assert bank.kinds == ["noise", "music", "speech"] and bank.samples.dtype == torch.int16
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"noise-1 {noises}/hum/a.wav\nmusic-1 {noises}/music/b.wav\n")
    assert NoiseBank(str(kaldi), RATE).kinds == ["noise", "music"]
    with (kaldi / "wav.scp").open("a") as scp:
        scp.write("noise-2 relative.wav\nnoise-3 s3://bucket/a.tar:0:9.wav\n")  # left out
    assert NoiseBank(str(kaldi), RATE).kinds == ["noise", "music"]
    soundfile.write(tmp_path / "faint.wav", np.full(RATE, 1e-30), RATE, subtype="FLOAT")
    with (kaldi / "wav.scp").open("a") as scp:
        scp.write(f"music-2 {tmp_path / 'faint.wav'}\n")  # its energy is 0 in float32
    assert NoiseBank(str(kaldi), RATE).kinds == ["noise", "music"]
    table = tmp_path / "noise" / "utterances.tsv"
    table.write_text("utt\tpath\tkind\na\thum/a.wav\tmusic\n")
    assert NoiseBank(noises, RATE).kinds == ["music"]


def test_user_errors(tmp_path):
    for keywords, word in [
        ({"noise": str(tmp_path / "none")}, "no such folder"),
        ({"rir": str(tmp_path)}, "no readable audio"),
        ({"rir_prob": 1.2}, "rir_prob: must be between 0 and 1, not 1.2"),
        ({"snr": [9.0, 3.0]}, "augment.snr: must be .lowest, highest."),
        ({"t60": [0.0, 0.3]}, "augment.t60: must be above 0"),
        ({"speed": [0.0]}, "speed"),
        ({"codecs": ["mp3", "gms"]}, "augment.codecs: unknown 'gms'; known are mu_law, "),
        ({"codecs": []}, "augment.codecs: is empty"),
    ]:
        with pytest.raises(UserError, match=word):
            Augment(RATE, **keywords)
    with pytest.raises(UserError, match="gsm needs crops at 16000 Hz, not 8000"):
        Augment(8000, codecs=["gsm"])


def test_specaugment_masks_within_its_widths():
    features = torch.ones(50, 100, 40)
    out = SpecAugment(time_masks=2, time_width=10, freq_masks=1, freq_width=5)(
        features, torch.Generator().manual_seed(0)
    )
    frames = (out.sum(dim=2) == 0).sum(dim=1)
    bands = (out.sum(dim=1) == 0).sum(dim=1)
    assert (
        frames.max() <= 20
        and bands.max() <= 5
        and frames.float().mean() == pytest.approx(10, abs=2)
    )
    assert len(set(frames.tolist())) > 5 and torch.equal(features, torch.ones(50, 100, 40))
    assert torch.equal(SpecAugment()(features), features)
