"""Two channels of a file are two recordings, wherever utterances are read."""

import numpy as np
import pytest
import soundfile

from speechssl.audio import reading
from speechssl.corpora.folder import prepare
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.manifest import Manifest, Utterance, read_manifest, write_manifest
from speechssl.data.shards import write_shards
from speechssl.data.validation import validate
from speechssl.embed.random_crops import plan_crops
from speechssl.errors import UserError
from speechssl.finetune.crops import random_crop
from speechssl.train.about import fingerprint

RATE = 16000


@pytest.fixture
def calls(tmp_path):
    """A call of which one side is a tone of 440 Hz and the other noise, one with a silent side ..."""
    folder = tmp_path / "calls"
    folder.mkdir()
    times = np.arange(3 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * times)
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    soundfile.write(folder / "call.wav", np.stack([tone, noise], 1), RATE)
    soundfile.write(folder / "one-side.wav", np.stack([tone, 0 * tone], 1), RATE)
    soundfile.write(folder / "alike.flac", np.stack([noise, noise], 1), RATE)
    soundfile.write(folder / "mono.flac", noise, RATE)
    return folder


def test_a_folder_of_calls_becomes_a_recording_for_each_side(calls, tmp_path, capsys):
    manifest = prepare(calls, tmp_path / "data", channels="each")
    ids = ["alike.flac", "call.wav-ch1", "call.wav-ch2", "mono.flac", "one-side.wav-ch1"]
    assert manifest.ids == ids
    assert (tmp_path / "data" / "reco2channel").read_text() == (
        "call.wav-ch1 1\ncall.wav-ch2 2\none-side.wav-ch1 1\n"
    )
    skipped = (tmp_path / "data" / "skipped.tsv").read_text()
    assert "one-side.wav, channel 2\tsilent" in skipped
    assert "channels" not in capsys.readouterr().err
    assert [u.channel for u in read_manifest(tmp_path / "data")] == [None, 1, 2, None, 1]
    assert validate(tmp_path / "data", read_audio=True) == []


def test_that_channels_are_mixed_is_said(calls, tmp_path, capsys):
    prepare(calls, tmp_path / "data")
    assert "3 files with several channels, which are mixed" in capsys.readouterr().err
    assert not (tmp_path / "data" / "reco2channel").exists()


def test_each_channel_is_trimmed_and_cut_by_itself(calls, tmp_path):
    times = np.arange(4 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * times)
    early, late = np.where(times < 1.5, tone, 0), np.where(times > 2, tone, 0)
    soundfile.write(calls / "turns.wav", np.stack([early, late], 1), RATE)
    manifest = prepare(calls, tmp_path / "data", channels="each", trim=35, max_seconds=1.8)
    read = [u for u in read_manifest(tmp_path / "data") if "turns" in u.id]
    assert [u.channel for u in read] == [1, 2, 2]
    assert read[0].stop == pytest.approx(1.5, abs=0.1)
    assert read[1].start == pytest.approx(2, abs=0.1)
    write_manifest(manifest, tmp_path / "again")
    for name in ("wav.scp", "segments", "reco2channel"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "data" / name).read_text()


@pytest.mark.parametrize("decoded_bytes", [0, 1 << 24])
def test_crops_are_of_the_channel(calls, decoded_bytes):
    path = str(calls / "call.wav")
    both = [Utterance(f"u{n}", path, seconds=3.0, channel=n) for n in (1, 2)]
    plan = [CropSpec(1, 3.0)]
    batches = CropBatches(both, plan, batch_size=2, decoded_bytes=decoded_bytes)
    for step in (0, 1):
        batch = batches[step]
        for row, crop in zip(batch.indices.tolist(), batch.groups[0][0], strict=True):
            wanted = reading.read(path, RATE, channel=row + 1)
            assert np.array_equal(crop.numpy(), wanted)


def test_fine_tuning_diagnostics_and_shards_take_the_channel(calls, tmp_path):
    prepare(calls, tmp_path / "data", channels="each")
    second = read_manifest(tmp_path / "data").utterances[2]
    assert [crop.channel for crop in plan_crops([second], 1, 2, 1.0, seed=0)[0]] == [2, 2]
    assert random_crop(second, 1.0, np.random.default_rng(0)).channel == 2
    assert random_crop(second, 9.0, np.random.default_rng(0)).channel == 2
    packed = write_shards(tmp_path / "data", tmp_path / "shards", format="wav")
    assert packed.utterances[2].channel is None  # a file of its own now
    got = reading.read(packed.utterances[2].path, RATE)
    assert np.array_equal(got, reading.read(second.path, RATE, channel=2))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("call 0\n", "reco2channel:1: 'call': '0' is no channel; give 1 to 10000"),
        ("call 99999999999999\n", "is no channel"),
        ("call B\n", "is no channel"),
        ("call 1\ncall 2\n", "reco2channel:2: 'call' is there twice"),
        ("other 1\n", "reco2channel:1: 'other' is no recording that is usable in wav.scp"),
    ],
)
def test_a_bad_line_is_named_and_its_channels_are_not_mixed(calls, tmp_path, lines, said):
    data = tmp_path / "data"
    paths = [("call", "call.wav"), ("mono", "mono.flac")]
    utterances = [Utterance(name, str(calls / path), seconds=3.0) for name, path in paths]
    write_manifest(Manifest(utterances), data)
    (data / "reco2channel").write_text(lines)
    with pytest.raises(UserError, match=said):
        read_manifest(data)
    assert any(said in problem for problem in validate(data))
    left = read_manifest(data, on_bad="skip").ids
    assert left == (["call", "mono"] if "other" in lines else ["mono"])


def test_a_channel_that_is_not_there_is_found(calls, tmp_path):
    data = tmp_path / "data"
    write_manifest(
        Manifest([Utterance("u", str(calls / "mono.flac"), seconds=3.0, channel=3)]), data
    )
    (problem,) = validate(data, read_audio=True)
    assert "has 1 channel, so no channel 3" in problem


def test_other_channels_are_other_data(calls):
    one, other, mixed = (
        fingerprint([Utterance("u", "call.wav", seconds=3.0, channel=channel)])
        for channel in (1, 2, None)
    )
    assert len({one, other, mixed}) == 3


def test_directories_of_before_lose_their_channels(calls, tmp_path):
    prepare(calls, tmp_path / "data", channels="each")
    prepare(calls, tmp_path / "data")
    assert not (tmp_path / "data" / "reco2channel").exists()
