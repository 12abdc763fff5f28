"""Verdicts about two recordings, and known voices: closed forms, files, and the commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

import speechssl
from speechssl.cli.command import main
from speechssl.data.manifest import Utterance
from speechssl.data.trials import read_trials
from speechssl.embed.cutting import find_speech
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError
from speechssl.evaluation.verification.scoring import unit
from speechssl.evaluation.verification.verify import verify as verification
from speechssl.metrics import eer
from speechssl.speakers import calibration, voices
from speechssl.speakers.calibration import Calibration
from speechssl.speakers.comparison import verify
from speechssl.speakers.model_digest import digest
from speechssl.speakers.quality import ASSUMED, Quality
from speechssl.vad.energy import EnergyDetector
from tests.builders import RATE, make_model, read_json, readme_code

HALF = Calibration(10.0, -5.0, 100, 50, 4.0, "a test")
"""Threshold .5 at equal priors."""


def test_scores_of_two_gaussians_get_their_known_likelihood_ratio():
    """Same N(.6, .1), different N(.1, .1): log LR = (.5 s - .175) / .01, threshold .35."""
    rng = np.random.default_rng(0)
    target = np.arange(20000) < 10000
    scores = rng.normal(np.where(target, 0.6, 0.1), 0.1)
    found = calibration.fit(scores, target, "gaussians", prior=0.5)
    assert found.slope == pytest.approx(50, rel=0.1)
    assert found.offset == pytest.approx(-17.5, rel=0.1)
    assert found.threshold(0.5) == pytest.approx(0.35, abs=0.005)
    assert (found.trials, found.targets) == (20000, 10000)
    assert found.eer == eer(scores, target)


def test_probability_is_bayes_rule_and_one_half_at_the_threshold():
    for prior in (0.01, 0.5, 0.9):
        for score in (-0.2, 0.4, 0.7):
            ratio = np.exp(10 * score - 5)
            expected = prior * ratio / (prior * ratio + 1 - prior)
            assert HALF.probability(score, prior) == pytest.approx(expected)
        threshold = HALF.threshold(prior)
        assert HALF.probability(threshold, prior) == pytest.approx(0.5)
    assert HALF.threshold(0.01) > HALF.threshold(0.5) == pytest.approx(0.5)


def test_scores_that_decide_nothing_are_refused():
    with pytest.raises(UserError, match="decide"):
        calibration.fit([0.1, 0.2, 0.8, 0.9], [True, True, False, False], "upside down")


def test_a_calibration_with_lengths_has_its_closed_form(tmp_path):
    """Normal scores around c log d +- a: the ratio is 2 a / variance times (score - c log d)."""
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.5, 8, 40_000)
    target = rng.random(len(seconds)) < 0.3
    scores = (
        0.1 * np.log(seconds) + np.where(target, 0.2, -0.2) + 0.2 * rng.normal(size=len(seconds))
    )
    found = calibration.fit(scores, target, "drawn", 0.3, quality=Quality(seconds))
    assert found.slope == pytest.approx(10, rel=0.05)
    assert found.duration_slope == pytest.approx(-1, rel=0.1)
    assert found.offset == pytest.approx(-math.log(3), abs=0.1)
    for length in (0.5, 3.0, 8.0):
        assert found.threshold(0.5, Quality(length)) == pytest.approx(
            0.1 * math.log(length), abs=0.01
        )
        at = found.threshold(0.2, Quality(length))
        assert found.probability(at, 0.2, Quality(length)) == pytest.approx(0.5)
    assert found.threshold(0.5) == found.threshold(0.5, Quality(ASSUMED))
    assert found.threshold(0.5, Quality(1e9)) == found.threshold(
        0.5, Quality(10)
    )  # longer is no better
    plain = calibration.fit(scores, target, "drawn", 0.3)
    assert plain.duration_slope == 0 and plain.threshold(0.5, Quality(0.3)) == plain.threshold(0.5)
    found.write(tmp_path / "calibration.json")
    assert calibration.read(tmp_path / "calibration.json") == found
    old = read_json(tmp_path / "calibration.json")
    del old["duration_slope"]
    (tmp_path / "calibration.json").write_text(json.dumps(old))
    assert calibration.read(tmp_path / "calibration.json").duration_slope == 0


def test_calibrate_reads_lengths_from_utt2dur(folder, tmp_path, capsys):
    make_model().save(tmp_path / "model")
    emb = str(tmp_path / "known.npz")
    assert main(["embed", str(tmp_path / "model"), str(folder / "known"), "--out", emb]) == 0
    ids = sorted(f"{path.parent.name}/{path.name}" for path in (folder / "known").glob("*/*.wav"))
    words = {True: "target", False: "nontarget"}
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    trials = tmp_path / "trials"
    trials.write_text("".join(f"{a} {b} {words[a[:2] == b[:2]]}\n" for a, b in pairs))
    seconds = {name: 0.5 + number for number, name in enumerate(ids)}
    table = tmp_path / "utt2dur"
    table.write_text("".join(f"{name} {length}\n" for name, length in seconds.items()))
    command = ["calibrate", str(tmp_path / "model"), emb, "--trials", str(trials)]
    capsys.readouterr()
    assert main([*command, "--durations", str(table)]) == 0
    found = calibration.read(tmp_path / "model" / "calibration.json")
    assert "for 3 s on the shorter side" in capsys.readouterr().out
    measured = verification(emb, read_trials(trials), replicates=0)
    shorter = [min(seconds[a], seconds[b]) for a, b in pairs]
    expected = calibration.fit(
        measured.scores, measured.trials.target, "", quality=Quality(shorter)
    )
    assert found.duration_slope == pytest.approx(expected.duration_slope) != 0
    first, *others = [f"{name} {length}\n" for name, length in seconds.items()]
    for line, reason in (
        (f"{ids[0]} 0\n", f"utt2dur:1: {ids[0]!r}: '0' is not a duration"),
        (f"{ids[0]} long\n", "'long' is not a duration"),
        (first + first, f"utt2dur:2: {ids[0]!r} is there twice"),
        ("", f"has no duration of {ids[0]!r}"),
        (None, "no such file"),
    ):
        table.unlink()
        if line is not None:
            table.write_text(line + "".join(others))
        assert main([*command, "--durations", str(table)]) == 2
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 1


def test_calibration_from_a_file_of_scores(tmp_path):
    rng = np.random.default_rng(1)
    target = np.arange(200) < 100
    scores = rng.normal(np.where(target, 0.6, 0.1), 0.2)
    lines = [f"a{i} b{i} {score:.7g}\n" for i, score in enumerate(scores)]
    (tmp_path / "scores").write_text("".join(reversed(lines)))
    words = np.where(target, "target", "nontarget")
    trials = [f"a{i} b{i} {word}\n" for i, word in enumerate(words)]
    (tmp_path / "trials").write_text("".join(trials))
    found = calibration.from_scores(tmp_path / "scores", tmp_path / "trials")
    expected = calibration.fit(np.array([float(f"{s:.7g}") for s in scores]), target, "")
    assert (found.slope, found.offset) == pytest.approx((expected.slope, expected.offset))
    (tmp_path / "trials").write_text("".join([*trials, "a1 b2 target\n"]))
    with pytest.raises(UserError, match="no score of 'a1 b2'"):
        calibration.from_scores(tmp_path / "scores", tmp_path / "trials")
    (tmp_path / "scores").write_text("a1 b1 high\n")
    with pytest.raises(UserError, match="scores:1: 'a1 b1 high'"):
        calibration.from_scores(tmp_path / "scores", tmp_path / "trials")


@pytest.mark.parametrize(
    "change",
    [
        {"slope": 0}, {"slope": -1.0}, {"slope": "steep"}, {"offset": float("nan")}, {"eer": None},
        {"slope": 1e300}, {"trials": "many"}, {"offset": [1]}, {"slope": True}, {"duration_slope": "x"},
        {"duration_slope": 1e300}, {"slope": 5e-324}, {"trials": True}, {"trials": 10**3000},
        {"targets": -5},
    ],
)  # fmt: skip
def test_a_calibration_that_is_none_is_one_line(tmp_path, change):
    path = tmp_path / "calibration.json"
    HALF.write(path)
    assert calibration.read(path) == HALF
    path.write_text(json.dumps({**read_json(path), **change}))
    with pytest.raises(UserError, match="calibrate again") as raised:
        calibration.read(path)
    assert "\n" not in str(raised.value)


def some_voices(rng, names=("anna", "ben", "cleo"), recordings=3, dim=6):
    centres = rng.normal(size=(len(names), dim))
    voice_of = [name for name in names for _ in range(recordings)]
    rows = np.repeat(centres, recordings, axis=0) + 0.1 * rng.normal(size=(len(voice_of), dim))
    ids = [f"{name}/{i}.wav" for i, name in enumerate(voice_of)]
    return voices.make(voice_of, ids, rows.astype(np.float32), "model"), centres


def test_a_voice_is_the_mean_of_its_unit_vectors():
    found, _ = some_voices(np.random.default_rng(0))
    for number, name in enumerate(found.names):
        rows = [
            vector / np.linalg.norm(vector)
            for vector, identifier in zip(found.embeddings, found.ids, strict=True)
            if identifier.startswith(name)
        ]
        np.testing.assert_allclose(found.centres()[number], np.mean(rows, axis=0), atol=1e-6)


def test_identify_by_bayes_and_by_threshold():
    rng = np.random.default_rng(0)
    known, centres = some_voices(rng)
    probes = np.stack([centres[1], centres[2], rng.normal(size=6)]).astype(np.float32)
    cosines = known.scores(probes)
    for prior in (0.2, 0.9):
        for row, answer in zip(cosines, known.identify(probes, HALF, prior=prior), strict=True):
            weights = [prior / 3 * np.exp(10 * cosine - 5) for cosine in row] + [1 - prior]
            best = int(np.argmax(weights))
            assert answer.voice == [*known.names, "unknown"][best]
            assert answer.probability == pytest.approx(weights[best] / sum(weights), rel=1e-4)
    first, second, stranger = known.identify(probes, threshold=float(cosines[2].max()) + 1e-3)
    assert (first.voice, second.voice, stranger.voice) == ("ben", "cleo", "unknown")
    assert stranger.nearest == known.names[cosines[2].argmax()]
    assert [answer.voice for answer in known.identify(probes)] == ["undecided"] * 3


@pytest.mark.parametrize("prior", [0, 1, 1.5, -0.1, float("nan")])
def test_a_prior_that_is_none_is_one_line(prior):
    known, centres = some_voices(np.random.default_rng(0))
    with pytest.raises(UserError, match="prior: must be above 0 and below 1"):
        known.identify(centres, HALF, prior=prior)
    with pytest.raises(UserError, match="prior: must be above 0 and below 1"):
        verify(speechssl.load("mfcc"), ["a.wav", "b.wav"], prior=prior, calibration=HALF)


def test_pairs_of_the_registered_recordings_calibrate_if_they_are_enough():
    known, _ = some_voices(np.random.default_rng(0), recordings=4)
    found = known.self_calibration()
    assert found is not None and (found.trials, found.targets) == (66, 18)
    assert "registered" in found.source
    few, _ = some_voices(np.random.default_rng(0), recordings=2)
    assert few.self_calibration() is None
    alone, _ = some_voices(np.random.default_rng(0), names=("anna",), recordings=9)
    assert alone.self_calibration() is None


def test_voices_come_back_from_their_file_and_are_replaced_by_name(tmp_path):
    rng = np.random.default_rng(0)
    known, _ = some_voices(rng)
    known.write(tmp_path / "v.safetensors")
    again = voices.read(tmp_path / "v.safetensors")
    assert (again.names, again.ids, again.model) == (known.names, known.ids, "model")
    np.testing.assert_array_equal(again.embeddings, known.embeddings)
    np.testing.assert_array_equal(again.voice, known.voice)
    new = voices.make(["ben", "dora"], ["b.wav", "d.wav"], np.eye(2, 6, dtype=np.float32), "model")
    both = known.with_others(new)
    assert both.names == ["anna", "ben", "cleo", "dora"]
    assert len(both.ids) == 8 and both.ids.count("b.wav") == 1
    np.testing.assert_array_equal(both.centres()[1], new.centres()[0])
    other = voices.make(["x"], ["x.wav"], np.eye(1, 6, dtype=np.float32), "another")
    with pytest.raises(UserError, match="another model"):
        known.with_others(other)
    for name in ("unknown", "undecided", " ", "x" * 300):
        with pytest.raises(UserError, match="name of a voice"):
            voices.make([name], ["x.wav"], np.eye(1, dtype=np.float32), "m")


def good_file():
    tensors = {"embeddings": np.eye(2, 4, dtype=np.float32), "voice": np.array([0, 1])}
    about = {"names": ["a", "b"], "recordings": ["a.wav", "b.wav"], "model": "m"}
    return tensors, about


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        ({}, {"names": None}),
        ({}, {"names": "["}),
        ({}, "["),
        ({}, "[]"),
        ({}, "null"),
        ({}, "[" * 100_000),
        ({}, {"names": "ab"}),
        ({}, {"names": [1, 2]}),
        ({}, {"names": ["b", "a"]}),
        ({}, {"names": ["a", "b", "c"]}),
        ({}, {"recordings": ["a.wav"]}),
        ({}, {"model": None}),
        ({}, {"model": None, "names": None, "recordings": None}),
        ({"voice": np.array([0, 7])}, {}),
        ({"voice": np.array([0, -1])}, {}),
        ({"voice": np.array([0.0, 1.0])}, {}),
        ({"voice": np.array([[0], [1]])}, {}),
        ({"embeddings": np.full((2, 4), np.nan, np.float32)}, {}),
        ({"embeddings": np.eye(2, 4)}, {}),
        ({"embeddings": np.zeros((2, 0), np.float32)}, {}),
        ({"embeddings": None}, {}),
    ],
)
def test_a_hostile_file_of_voices_is_one_line(tmp_path, tensors, about):
    path = tmp_path / "v.safetensors"
    good_tensors, good_about = good_file()
    save_file(good_tensors, path, metadata={"speechssl voices": json.dumps(good_about)})
    assert voices.read(path).names == ["a", "b"]
    kept = {key: value for key, value in {**good_tensors, **tensors}.items() if value is not None}
    if isinstance(about, dict):
        said = {key: value for key, value in {**good_about, **about}.items() if value is not None}
        about = json.dumps(said)
    save_file(kept, path, metadata={"speechssl voices": about})
    with pytest.raises(UserError, match="register again") as raised:
        voices.read(path)
    assert "\n" not in str(raised.value)


def test_the_same_voices_are_the_same_bytes(tmp_path):
    """Safetensors writes several entries of metadata in an order of chance."""
    made = voices.make(["b", "a"], ["2", "1"], np.eye(2, 4, dtype=np.float32), "m")
    contents = set()
    for number in range(20):
        made.write(tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1


def test_what_is_no_safetensors_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        voices.read(tmp_path / "v.safetensors")
    for content in (b"", b"PK\3\4", b"\xff" * 64, (1 << 60).to_bytes(8, "little") + b"{}"):
        (tmp_path / "v.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="register again"):
            voices.read(tmp_path / "v.safetensors")


def speak(path: Path, pitch: float, seed: int, seconds: float = 1.0) -> Path:
    """A buzz with harmonics of a pitch and a little noise: MFCC statistics tell pitches apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 9)]
    samples = 0.1 * np.sum(tones, axis=0) + 0.01 * rng.normal(size=len(time))
    soundfile.write(path, samples.astype(np.float32), RATE)
    return path


PITCHES = {"anna": 800.0, "ben": 300.0, "cleo": 1500.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings `known/VOICE/N.wav`, new ones `new/VOICE.wav`, and the model in `model`."""
    root = tmp_path_factory.mktemp("speakers")
    for number, (name, pitch) in enumerate(PITCHES.items()):
        for i in range(4):
            speak(root / "known" / name / f"{i}.wav", pitch, 10 * number + i)
        speak(root / "new" / f"{name}.wav", pitch, 100 + number)
    speak(root / "new" / "stranger.wav", 3000.0, 200)
    make_model().save(root / "model")
    return root


def test_register_and_identify(folder, tmp_path, capsys):
    out = tmp_path / "voices.safetensors"
    assert main(["register", "mfcc", str(folder / "known"), "--out", str(out)]) == 0
    assert "3 voices of 12 recordings" in capsys.readouterr().err
    known = voices.read(out)
    assert known.names == list(PITCHES)
    assert known.ids[0] == "anna/0.wav"
    (folder / "new" / "noise.txt").write_text("no sound")
    (folder / "new" / "broken.wav").write_bytes(b"RIFF")
    table = tmp_path / "out" / "who.tsv"
    command = ["identify", "mfcc", str(out), str(folder / "new"), "--out", str(table)]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "broken.wav" in said and "the pairs of the registered recordings" in said
    assert "4 recordings, 3 voices; 1 left out; threshold" in said
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert rows[0] == ["recording", "voice", "nearest", "score", "probability"]
    answers = {row[0]: row[1] for row in rows[1:]}
    assert answers == {
        "anna.wav": "anna",
        "ben.wav": "ben",
        "cleo.wav": "cleo",
        "stranger.wav": "unknown",
    }
    by_hand = unit(Embedder.from_pretrained("mfcc").embed([folder / "new" / "ben.wav"]))
    score = float((by_hand @ unit(known.centres()).T).max())
    assert float(rows[2][3]) == pytest.approx(score, abs=1e-4)
    assert main([*command[:4], "--threshold", "1.1"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == ["unknown"] * 4
    broken = str(folder / "new" / "broken.wav")
    before = table.read_text()
    assert main([*command[:3], broken, "--out", str(table)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "none of 1 recordings can be used; the first" in said
    assert table.read_text() == before
    assert main(["register", "mfcc", broken, "--out", str(tmp_path / "none.safetensors")]) == 2
    said = capsys.readouterr().err
    assert "register: none of 1 recordings can be used; the first" in said and broken in said


def test_both_sides_of_a_call_are_said_to_be_mixed(folder, tmp_path, capsys):
    """Of two speakers who are mixed, neither is the voice that is registered or found."""
    sides = [soundfile.read(folder / "new" / f"{name}.wav")[0][:RATE] for name in ("anna", "ben")]
    calls = tmp_path / "calls"
    calls.mkdir()
    soundfile.write(calls / "call.wav", np.stack(sides, axis=1), RATE)
    each = tmp_path / "each"
    assert main(["prepare", "folder", str(calls), str(each), "--channels", "each"]) == 0
    voices_file = str(tmp_path / "voices.safetensors")
    for inputs, is_mixed in ((calls, True), (each, False)):
        capsys.readouterr()
        assert main(["register", "mfcc", str(inputs), "--out", voices_file]) == 0
        assert ("1 recording with several channels" in capsys.readouterr().err) == is_mixed
        words = ["identify", "mfcc", voices_file, str(inputs), "--threshold", "0"]
        assert main(words) == 0
        assert ("1 recording with several channels" in capsys.readouterr().err) == is_mixed


def test_with_vad_only_speech_is_registered_and_named(folder, tmp_path, capsys):
    """Of one side of a call, which is silent while the other one speaks."""
    speech = soundfile.read(folder / "new" / "ben.wav", dtype="float32")[0]
    side = tmp_path / "in" / "ben.wav"
    side.parent.mkdir()
    soundfile.write(side, np.concatenate([0 * speech] * 4 + [speech]), RATE)
    emb = tmp_path / "emb.npz"
    assert main(["embed", "mfcc", str(side), "--vad", "energy", "--out", str(emb)]) == 0
    embedded = unit(np.load(emb)["embeddings"])
    file = tmp_path / "voices.safetensors"
    register = ["register", "mfcc", str(side), "--out", str(file)]
    assert main([*register, "--vad", "energy"]) == 0
    np.testing.assert_allclose(unit(voices.read(file).embeddings), embedded, atol=1e-6)
    calibrated = tmp_path / "calibration.json"
    Calibration(10.0, -9.0, 9, 3, 1.5, "set", duration_slope=-2.0).write(calibrated)
    identify = ["identify", "mfcc", str(file), str(side), "--calibration", str(calibrated)]
    found = []
    for words in (["--vad", "energy"], []):
        capsys.readouterr()
        assert main([*identify, *words]) == 0
        *_, score, probability = capsys.readouterr().out.splitlines()[1].split("\t")
        found.append((float(score), float(probability)))
    assert found[0][0] == pytest.approx(1.0, abs=1e-4) and found[1][0] < 0.99
    [(start, stop)] = find_speech(Utterance("ben", str(side)), EnergyDetector())
    ratio = 1.0 - 2.0 * math.log((stop - start) / ASSUMED)  # not of all the seconds of the file
    assert found[0][1] == pytest.approx(1 / (1 + math.exp(-ratio)), abs=2e-3)


def test_register_one_voice_and_add_another(folder, tmp_path, capsys):
    out = str(tmp_path / "voices.safetensors")
    anna = [str(folder / "known" / "anna" / f"{i}.wav") for i in range(2)]
    assert main(["register", "mfcc", *anna, "--name", "Anna K.", "--out", out]) == 0
    assert main(["register", "mfcc", str(folder / "new" / "ben.wav"), "--add", "--out", out]) == 0
    assert voices.read(Path(out)).names == ["Anna K.", "ben"]
    assert main(["identify", "mfcc", out, anna[0]]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split("\t")[1:3] == ["undecided", "Anna K."]
    assert "no threshold is known" in captured.err
    assert main(["identify", str(folder / "model"), out, anna[0]]) == 2
    assert "another model" in capsys.readouterr().err
    assert main(["register", "mfcc", *anna, "--out", str(tmp_path / "voices.npz")]) == 2
    assert ".safetensors" in capsys.readouterr().err


def test_register_by_utt2spk(folder, tmp_path, capsys):
    (tmp_path / "utt2spk").write_text("anna.wav A\nben.wav B\ncleo.wav B\n")
    files = [str(folder / "new" / f"{name}.wav") for name in PITCHES]
    out = tmp_path / "v.safetensors"
    command = [
        "register",
        "mfcc",
        *files,
        "--out",
        str(out),
        "--speakers",
        str(tmp_path / "utt2spk"),
    ]
    assert main(command) == 0
    assert voices.read(out).names == ["A", "B"]
    (tmp_path / "utt2spk").write_text("anna.wav A\n")
    assert main(command) == 2
    (tmp_path / "utt2spk").unlink()
    capsys.readouterr()
    assert main(command) == 2
    assert "no such file; give lines `recording voice`" in capsys.readouterr().err


def test_names_of_a_strangers_file_do_nothing_to_a_terminal_or_a_table(folder, tmp_path, capsys):
    known = voices.make(
        ["\x1b[2Jred\tred\nred"],
        ["a"],
        Embedder.from_pretrained("mfcc").embed([folder / "new" / "ben.wav"]),
        digest(Embedder.from_pretrained("mfcc").model),
    )
    known.write(tmp_path / "v.safetensors")
    command = ["identify", "mfcc", str(tmp_path / "v.safetensors"), str(folder / "new" / "ben.wav")]
    assert main([*command, "--threshold", "0"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and len(out.splitlines()) == 2
    assert out.splitlines()[1].split("\t")[1] == r"\x1b[2Jred\tred\nred"


def test_verify_without_a_calibration_gives_the_score_alone(folder, capsys):
    a = str(folder / "known" / "anna" / "0.wav")
    b = str(folder / "new" / "anna.wav")
    c = str(folder / "new" / "ben.wav")
    assert main(["verify", str(folder / "model"), a, b]) == 0
    said = capsys.readouterr().out
    embedder = Embedder.from_pretrained(folder / "model")
    assert f"{embedder.similarity(a, b):.4f}" in said and "no verdict" in said
    assert "verdict  " not in said
    assert main(["verify", str(folder / "model"), a, b, c, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    mean = unit(embedder.embed([a, b])).mean(0)
    assert found["score"] == pytest.approx(embedder.similarity(mean, c), abs=1e-6)
    assert found["verdict"] is None
    assert main(["verify", str(folder / "model"), a]) == 2
    assert "give two" in capsys.readouterr().err


def test_calibrate_then_verify(folder, tmp_path, capsys):
    model = tmp_path / "model"
    make_model().save(model)
    emb = str(tmp_path / "known.npz")
    assert main(["embed", str(model), str(folder / "known"), "--out", emb]) == 0
    ids = sorted(f"{path.parent.name}/{path.name}" for path in (folder / "known").glob("*/*.wav"))
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    words = {True: "target", False: "nontarget"}
    lines = [f"{a} {b} {words[a[:2] == b[:2]]}\n" for a, b in pairs]
    trials = tmp_path / "trials"
    trials.write_text("".join(lines))
    assert main(["calibrate", str(model), emb, "--trials", str(trials)]) == 0
    written = calibration.read(model / "calibration.json")
    said = capsys.readouterr().out
    assert f"threshold {written.threshold(0.5):.4f}" in said
    assert (written.trials, written.targets) == (66, 18) and str(trials) in written.source
    a, b = (str(folder / "new" / f"{name}.wav") for name in ("anna", "ben"))
    same = str(folder / "known" / "anna" / "1.wav")
    assert main(["verify", str(model), a, same]) == 0
    said = capsys.readouterr().out
    assert "verdict     same speaker" in said and str(trials) in said
    assert main(["verify", str(model), a, b, "--json", "--prior", "0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "different"
    assert found["probability_same"] == pytest.approx(written.probability(found["score"], 0.1))
    assert found["threshold"] == pytest.approx(written.threshold(0.1))
    # the same from a file of scores, for another copy of the model without calibration
    make_model().save(tmp_path / "bare")
    scores = str(tmp_path / "scores")
    assert main(["score", emb, "--trials", str(trials), "--out", scores]) == 0
    command = ["verify", str(tmp_path / "bare"), a, b, "--json", "--prior", "0.1"]
    assert main([*command, "--calibration", scores, "--trials", str(trials)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["threshold"] == pytest.approx(found["threshold"], abs=1e-4)
    assert main([*command, "--calibration", scores]) == 2
    assert "--trials" in capsys.readouterr().err
    assert main([*command, "--trials", str(trials)]) == 2


def test_a_calibration_in_the_about_of_a_model_counts(folder, tmp_path, capsys):
    stated = {"slope": 10.0, "offset": -5.0, "trials": 9, "targets": 3, "eer": 1.5, "source": "set"}
    make_model(about={"calibration": stated}).save(tmp_path / "model")
    files = [str(folder / "new" / f"{name}.wav") for name in ("anna", "ben")]
    assert main(["verify", str(tmp_path / "model"), *files]) == 0
    assert "threshold   0.5000 at a prior of 0.5" in capsys.readouterr().out
    make_model(about={"calibration": "high"}).save(tmp_path / "model")
    assert main(["verify", str(tmp_path / "model"), *files]) == 2
    assert "calibrate again" in capsys.readouterr().err


def test_the_example_of_the_readme(folder, capsys):
    (code,) = readme_code("speakers")
    files = [folder / "new" / "ben.wav", folder / "new" / "cleo.wav"]
    exec(code, {"known": folder / "known", "files": files})
    score, no_verdict, *voices = capsys.readouterr().out.splitlines()
    embedder = speechssl.load("mfcc")
    assert f"{float(embedder.similarity(*files)):.4f}" in score and "no verdict" in no_verdict
    assert [line.split()[0] for line in voices] == ["ben", "cleo"]


def test_two_recordings_are_compared_from_python_as_by_the_command(folder, tmp_path, capsys):
    stated = {"slope": 10.0, "offset": -5.0, "trials": 9, "targets": 3, "eer": 1.5, "source": "set"}
    make_model(about={"calibration": stated}).save(tmp_path / "model")
    files = [str(folder / "new" / f"{name}.wav") for name in ("anna", "ben")]
    found = verify(speechssl.load(tmp_path / "model"), files, prior=0.2)
    assert found.threshold == pytest.approx((math.log(4) + 5) / 10)
    assert found.verdict == ("same" if found.score >= found.threshold else "different")
    assert main(["verify", str(tmp_path / "model"), *files, "--prior", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.as_json()
    mfcc = verify(speechssl.load("mfcc"), files)
    assert (mfcc.threshold, mfcc.verdict, mfcc.probability) == (None, None, None)


def test_recordings_too_short_to_trust_are_said_to_be(folder, tmp_path, capsys):
    """Half a second beside a second and a half; and a recording of two seconds is not short."""
    stated = {"slope": 10.0, "offset": -5.0, "trials": 9, "targets": 3, "eer": 1.5, "source": "set"}
    make_model(about={"calibration": stated}).save(tmp_path / "model")
    model = str(tmp_path / "model")
    samples, rate = soundfile.read(folder / "new" / "anna.wav", dtype="float32")
    samples = np.tile(samples, 4)
    whole, half = str(tmp_path / "whole.wav"), str(tmp_path / "half.wav")
    soundfile.write(whole, samples[: 2 * rate], rate)
    soundfile.write(half, samples[: rate // 2], rate)
    assert main(["verify", model, whole, half]) == 0
    assert "0.5 s on the shorter side" in capsys.readouterr().out
    assert main(["verify", model, half, half, half, whole, "--json"]) == 0  # three are enrolled
    assert json.loads(capsys.readouterr().out)["seconds"] == 1.5
    assert main(["verify", model, whole, whole]) == 0
    assert "shorter" not in capsys.readouterr().out
    voices_file = str(tmp_path / "voices.safetensors")
    assert main(["register", model, whole, "--name", "anna", "--out", voices_file]) == 0
    capsys.readouterr()
    assert main(["identify", model, voices_file, whole, half]) == 0
    assert "2 recordings, 1 voice; " in (said := capsys.readouterr().err)
    assert "; 1 shorter than 2 s" in said
    # a calibration in which length counts needs no such words: its threshold is another one
    counted = Calibration(10.0, -5.0, 9, 3, 1.5, "set", duration_slope=-2.0)
    counted.write(tmp_path / "model" / "calibration.json")
    assert main(["verify", model, whole, half]) == 0
    said = capsys.readouterr().out
    by_hand = (5 + 2 * math.log(0.5 / 3)) / 10
    assert f"threshold   {by_hand:.4f} at a prior of 0.5, for 0.5 s on the shorter side" in said
    assert main(["identify", model, voices_file, whole, half]) == 0
    told = capsys.readouterr()
    assert "shorter" not in told.err
    known = voices.read(Path(voices_file))
    rows = [line.split("\t") for line in told.out.splitlines()[1:]]
    for row, seconds in zip(rows, (2.0, 0.5), strict=True):
        ratio = math.exp(10 * float(row[3]) - 5 - 2 * math.log(seconds / 3))
        of_anna = ratio / (ratio + 1)
        assert float(row[4]) == pytest.approx(max(of_anna, 1 - of_anna), abs=2e-3)
    assert known.names == ["anna"]


def test_a_calibration_of_other_weights_is_refused(folder, tmp_path, capsys):
    model = make_model()
    model.save(tmp_path / "model")
    files = [str(folder / "new" / f"{name}.wav") for name in ("anna", "ben")]
    command = ["verify", str(tmp_path / "model"), *files]
    own = Calibration(10.0, -5.0, 100, 50, 4.0, "a test", model=digest(model))
    own.write(tmp_path / "model" / "calibration.json")
    assert main(command) == 0
    make_model(seed=1).save(tmp_path / "model")  # trained again, into the same folder
    capsys.readouterr()
    assert main(command) == 2
    assert "of other weights; calibrate again" in capsys.readouterr().err
    given = str(tmp_path / "model" / "calibration.json")
    assert main([*command, "--calibration", given]) == 2
