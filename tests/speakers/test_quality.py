"""Bands of recordings in calibration: closed forms, verdicts, known voices, and the commands."""

import io
import json
import math

import numpy as np
import pytest
import soundfile

import speechssl
from speechssl.cli.command import main
from speechssl.data.trials import read_trials
from speechssl.errors import UserError
from speechssl.evaluation.verification.verify import verify as verification
from speechssl.speakers import calibration, voices
from speechssl.speakers.calibration import Calibration
from speechssl.speakers.comparison import verify
from speechssl.speakers.quality import Quality
from tests.builders import RATE, make_model

BANDED = Calibration(10.0, -5.0, 9, 3, 1.5, "set", one_narrow=2.0, both_narrow=-1.0)
"""Thresholds .5 for two wide recordings, .3 for one narrow one, .6 for two."""


def test_a_calibration_with_bands_has_its_closed_form(tmp_path):
    """Normal scores around c of the kind +- a: the ratio is 2 a / variance times (score - c)."""
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 60_000)) < 0.5
    centre = np.where(one & other, 0.3, np.where(one | other, -0.2, 0.0))
    target = rng.random(len(one)) < 0.3
    scores = centre + np.where(target, 0.2, -0.2) + 0.2 * rng.normal(size=len(one))
    quality = Quality(narrow=(one, other))
    found = calibration.fit(scores, target, "drawn", 0.3, quality=quality)
    assert found.slope == pytest.approx(10, rel=0.05) and found.knows_bands
    for sides, expected in (((0, 0), 0.0), ((1, 0), -0.2), ((0, 1), -0.2), ((1, 1), 0.3)):
        threshold = found.threshold(0.5, Quality(narrow=sides))
        assert threshold == pytest.approx(expected, abs=0.01)
        assert found.probability(threshold, 0.5, Quality(narrow=sides)) == pytest.approx(0.5)
    assert found.duration_slope == 0
    found.write(tmp_path / "calibration.json")
    assert calibration.read(tmp_path / "calibration.json") == found
    # nobody looked: as if all were wide
    assert found.threshold(0.5) == found.threshold(0.5, Quality(narrow=(0, 0)))
    # a kind that no trial is of has no term
    wide = calibration.fit(scores, target, "drawn", 0.3, quality=Quality(narrow=(one, 0 * one)))
    assert wide.one_narrow != 0 == wide.both_narrow


def test_a_side_of_several_recordings_counts_by_its_share():
    """Of pairs of one side's recordings (a quarter narrow) and the other's (half), by hand."""
    quality = Quality(narrow=(0.25, 0.5))
    assert float(quality.one_narrow()) == pytest.approx(0.25 * 0.5 + 0.75 * 0.5)
    assert float(quality.both_narrow()) == pytest.approx(0.125)
    added = 10 * 0.4 - 5 + 2.0 * 0.5 - 1.0 * 0.125
    assert BANDED.log_likelihood_ratio(0.4, quality) == pytest.approx(added)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and recordings of two voices: `wide/VOICE-N.wav`, and the same by `call/`, at 8 kHz."""
    root = tmp_path_factory.mktemp("bands")
    make_model().save(root / "model")
    time = np.arange(2 * RATE) / RATE
    for kind in ("wide", "call"):
        (root / kind).mkdir()
    for voice, pitch in (("anna", 400.0), ("ben", 150.0)):
        for number in range(4):
            rng = np.random.default_rng(number)
            tones = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 9))
            wave = 0.1 * tones + 0.01 * rng.normal(size=len(time))
            soundfile.write(root / "wide" / f"{voice}-{number}.wav", wave, RATE)
            soundfile.write(root / "call" / f"{voice}-{number}-call.wav", wave[::2], 8000)
    return root


def test_verify_hears_which_recordings_are_by_telephone(folder, tmp_path, capsys):
    make_model().save(tmp_path / "model")
    BANDED.write(tmp_path / "model" / "calibration.json")
    model = str(tmp_path / "model")
    wide = [str(folder / "wide" / f"anna-{number}.wav") for number in range(2)]
    call = [str(folder / "call" / f"anna-{number}-call.wav") for number in range(2)]
    for recordings, threshold, words in (
        ((wide[0], wide[1]), 0.5, ""),
        ((wide[0], call[1]), 0.3, ", for one by telephone (narrow band)"),
        ((call[0], wide[1]), 0.3, ", for one by telephone (narrow band)"),
        ((call[0], call[1]), 0.6, ", for both by telephone (narrow band)"),
        ((wide[0], call[0], call[1]), 0.45, ", for some recordings by telephone (narrow band)"),
        ((wide[0], call[0], wide[1]), 0.4, ", for some recordings by telephone (narrow band)"),
    ):
        assert main(["verify", model, *recordings]) == 0
        said = capsys.readouterr().out
        assert f"threshold   {threshold:.4f} at a prior of 0.5{words}\n" in said
    assert main(["verify", model, wide[0], call[0], call[1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["narrow"] == [0.5, 1.0]
    # the same from a file object, which can be read once, and from samples
    embedder = speechssl.load(tmp_path / "model")
    samples, _ = soundfile.read(call[1], dtype="float32")
    sources = [
        {"audio": wide[0]},
        io.BytesIO((folder / "call" / "anna-0-call.wav").read_bytes()),
        {"array": samples, "sampling_rate": 8000},
    ]
    again = verify(embedder, sources)
    assert again.as_json().pop("narrow") == found.pop("narrow")
    assert again.seconds == 2.0 and again.score == pytest.approx(found["score"], abs=1e-6)
    assert again.threshold == found["threshold"]


def test_verify_does_not_listen_for_a_calibration_that_does_not_ask(folder):
    embedder = speechssl.load(folder / "model")
    files = [folder / "wide" / "anna-0.wav", folder / "call" / "anna-0-call.wav"]
    plain = Calibration(10.0, -5.0, 9, 3, 1.5, "set")
    found = verify(embedder, files, calibration=plain)
    assert found.narrow is None and found.threshold == pytest.approx(0.5)
    assert found.as_json()["narrow"] is None


def test_calibrate_hears_the_bands_of_its_trials(folder, tmp_path, capsys):
    make_model().save(tmp_path / "model")
    model = str(tmp_path / "model")
    for kind in ("wide", "call"):
        assert main(["prepare", "folder", str(folder / kind), str(tmp_path / kind)]) == 0
    data = [str(tmp_path / "wide"), str(tmp_path / "call")]
    emb = str(tmp_path / "emb.npz")
    assert main(["embed", model, *data, "--out", emb]) == 0
    ids = sorted(np.load(emb)["ids"].tolist())
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    trials = tmp_path / "trials"
    trials.write_text("".join(f"{int(a[:2] == b[:2])} {a} {b}\n" for a, b in pairs))
    command = ["calibrate", model, emb, "--trials", str(trials)]
    capsys.readouterr()
    assert main([*command, "--data", *data]) == 0
    said = capsys.readouterr().out
    narrow = [["call" in a for a, _ in pairs], ["call" in b for _, b in pairs]]
    kinds = [a + b for a, b in zip(*narrow, strict=True)]
    assert f"({kinds.count(1)}, {kinds.count(2)} such trials)" in said
    measured = verification(emb, read_trials(trials), replicates=0)
    quality = Quality(narrow=(narrow[0], narrow[1]))
    expected = calibration.fit(measured.scores, measured.trials.target, "", quality=quality)
    found = calibration.read(tmp_path / "model" / "calibration.json")
    assert found.knows_bands
    for name in ("slope", "offset", "one_narrow", "both_narrow", "eer"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))
    for left_out, missing in (
        ((1, False), "of two speakers where one side is by telephone"),
        ((2, True), "of one speaker where both sides are by telephone"),
        ((0, True), "of one speaker where neither side is by telephone"),
    ):
        some = [
            f"{int(a[:2] == b[:2])} {a} {b}\n"
            for (a, b), kind in zip(pairs, kinds, strict=True)
            if (kind, a[:2] == b[:2]) != left_out
        ]
        (tmp_path / "some").write_text("".join(some))
        words = ["calibrate", model, emb, "--trials", str(tmp_path / "some"), "--data", *data]
        assert main(words) == 2
        said = capsys.readouterr().err
        assert f"no trial {missing}" in said and said.count("\n") == 1
    assert main([*command, "--data", data[0]]) == 2
    said = capsys.readouterr().err
    assert "no directory of --data has the utterance" in said and said.count("\n") == 1


def test_identify_knows_by_what_a_voice_was_registered(folder, tmp_path, capsys):
    make_model().save(tmp_path / "model")
    BANDED.write(tmp_path / "model" / "calibration.json")
    model = str(tmp_path / "model")
    out = tmp_path / "v.safetensors"
    (tmp_path / "known" / "anna").mkdir(parents=True)
    for kind, name in (("wide", "anna-0.wav"), ("call", "anna-0-call.wav"), ("wide", "anna-1.wav")):
        (tmp_path / "known" / "anna" / name).write_bytes((folder / kind / name).read_bytes())
    assert main(["register", model, str(tmp_path / "known"), "--out", str(out)]) == 0
    known = voices.read(out)
    assert sorted(known.narrow) == [False, False, True]
    assert known.narrow_shares() == pytest.approx([1 / 3])
    call = str(folder / "call" / "anna-3-call.wav")
    capsys.readouterr()
    assert main(["identify", model, str(out), call]) == 0
    row = capsys.readouterr().out.splitlines()[1].split("\t")
    ratio = math.exp(10 * float(row[3]) - 5 + 2.0 * 2 / 3 - 1.0 / 3)
    probability = max(ratio, 1) / (ratio + 1)
    assert float(row[4]) == pytest.approx(probability, abs=2e-3)
    # voices of before, of whose recordings nothing is known, count as wide, and keep their company
    old = voices.make(["ben"], ["b"], known.embeddings[:1], known.model)
    assert old.narrow_shares() == pytest.approx([0.0])
    both = known.with_others(old)
    assert both.narrow_shares() == pytest.approx([1 / 3, 0.0])


@pytest.mark.parametrize("narrow", [[True], "yes", [0, 1], [True, None], {"0": True, "1": False}])
def test_a_strangers_word_on_bands_is_checked(tmp_path, narrow):
    known = voices.make(["a", "b"], ["1", "2"], np.eye(2, 4, dtype=np.float32), "m", narrow)
    known_about = voices.make(["a", "b"], ["1", "2"], np.eye(2, 4, dtype=np.float32), "m")
    known_about.write(tmp_path / "good.safetensors")
    assert voices.read(tmp_path / "good.safetensors").narrow is None
    from safetensors.numpy import save_file

    about = {"names": ["a", "b"], "recordings": ["1", "2"], "model": "m", "narrow": narrow}
    tensors = {"embeddings": known.embeddings, "voice": known.voice}
    path = tmp_path / "v.safetensors"
    save_file(tensors, path, metadata={"speechssl voices": json.dumps(about)})
    with pytest.raises(UserError, match="band is narrow"):
        voices.read(path)


def test_verify_takes_one_side_of_a_call_and_its_speech_alone(folder, tmp_path, capsys):
    """On the left anna speaks and then listens, on the right ben the other way round."""
    model = str(folder / "model")
    anna, ben = (soundfile.read(folder / "wide" / f"{name}-0.wav")[0] for name in ("anna", "ben"))
    silence = np.zeros(3 * RATE)
    left, right = np.concatenate([anna, silence]), np.concatenate([silence, ben])
    call, other = str(tmp_path / "call.wav"), str(folder / "wide" / "ben-1.wav")
    soundfile.write(call, np.stack([left, right], axis=1), RATE)
    soundfile.write(tmp_path / "right.wav", right, RATE)
    command = ["verify", model, "--json", "--device", "cpu"]
    assert main([*command, call, other]) == 0
    said = capsys.readouterr().err
    assert "1 recording with several channels" in said and "--channel N compares one" in said
    assert main([*command, "--channel", "1", call, call]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(1.0, abs=1e-6)
    embedder = speechssl.load(folder / "model", device="cpu")
    side = {"audio": call, "channel": 1}
    whole = verify(embedder, [side, other])
    assert whole.seconds == 2.0
    assert whole.score == verify(embedder, [tmp_path / "right.wav", other]).score
    spoken = verify(embedder, [side, other], vad="energy")
    assert spoken.seconds == pytest.approx(2.0, abs=0.15) and spoken.score > whole.score
    both = verify(embedder, [call, call], channel=2, vad="energy")
    assert both.score == pytest.approx(1.0, abs=1e-6)
    assert both.seconds == pytest.approx(2.0, abs=0.15)  # of the 5 s of the call
    with pytest.raises(UserError, match="recording 0: speech is looked for in files alone"):
        verify(embedder, [{"array": anna, "sampling_rate": RATE}, other], vad="energy")
    soundfile.write(tmp_path / "hush.wav", 1e-4 * np.ones(2 * RATE), RATE)
    assert main([*command, "--vad", "energy", str(tmp_path / "hush.wav"), other]) == 2
    said = capsys.readouterr().err
    assert "hush.wav" in said and said.count("\n") == 1
    assert main([*command, "--channel", "3", call, call]) == 2
    assert "channel" in capsys.readouterr().err
