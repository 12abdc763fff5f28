"""Who speaks when: parts by hand and by brute force, DER against pyannote.metrics, and real runs."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from builders import ROOT, make_model, noise, readme_code

import speechssl
from speechssl.audio.reading import read
from speechssl.cli.command import main
from speechssl.corpora import synthetic
from speechssl.data.manifest import read_manifest
from speechssl.diarize.clustering import (
    agglomerative,
    kmeans,
    merge_small,
    spread_of,
    unit,
    variance_ratio,
    whitened,
)
from speechssl.diarize.files import diarize_to_files, file_names
from speechssl.diarize.picture import _bars
from speechssl.diarize.pipeline import Diarization, cluster, diarize
from speechssl.diarize.resegmentation import SpeechWindows, resegment, viterbi
from speechssl.diarize.scoring import diarization_error
from speechssl.diarize.settings import DiarizeSettings
from speechssl.diarize.turns import Turn, read_rttm, rttm_lines
from speechssl.errors import UserError
from speechssl.speakers.calibration import Calibration

sys.path.insert(0, str(ROOT / "egs/diarize"))

from mixtures import RATE, Mixture, conversation, speakers_of


def random_turns(seed: int, speakers: str, overlapping: bool) -> list[Turn]:
    rng = np.random.default_rng(seed)
    turns = []
    time = 0.0
    for _ in range(20):
        start = time + float(rng.uniform(-0.4 if overlapping else 0, 1))
        start = max(start, 0.0)
        stop = start + float(rng.uniform(0.5, 4))
        turns.append(Turn(start, stop, str(rng.choice(list(speakers)))))
        time = stop
    return turns


def test_the_error_rate_by_hand() -> None:
    true = [Turn(0, 10, "a"), Turn(10, 20, "b")]
    found = [Turn(1, 12, "x"), Turn(12, 21, "y")]
    error = diarization_error(true, found)
    assert (error.missed, error.false_alarm, error.confusion) == pytest.approx((1, 1, 2))
    assert error.rate == pytest.approx(4 / 20)
    collared = diarization_error(true, found, collar=0.5)
    assert collared.speech == pytest.approx(18)
    assert collared.rate == pytest.approx((0.5 + 0.5 + 1.5) / 18)
    swapped = [Turn(turn.start, turn.stop, "ba"["ab".index(turn.speaker)]) for turn in true]
    assert diarization_error(true, swapped).rate == 0
    both = [Turn(0, 4, "a"), Turn(2, 4, "b")]
    assert diarization_error(both, [Turn(0, 4, "x")]).rate == pytest.approx(2 / 6)
    assert diarization_error([], []).rate == 0


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("collar", [0.0, 0.25])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_rate_is_pyannotes(overlapping: bool, collar: float, seed: int) -> None:
    core = pytest.importorskip("pyannote.core", reason="needs pyannote.metrics")
    metrics = pytest.importorskip("pyannote.metrics.diarization")

    def annotation(turns: list[Turn]) -> object:
        made = core.Annotation()
        for number, turn in enumerate(turns):
            made[core.Segment(turn.start, turn.stop), number] = turn.speaker
        return made

    # A speaker that overlaps himself would count twice there.
    true = random_turns(seed, "abc", overlapping=False)
    if overlapping:
        true = [
            turn._replace(stop=turn.stop + 0.3, speaker="abcd"[n % 4])
            for n, turn in enumerate(true)
        ]
    found = random_turns(seed + 100, "wxyz", overlapping=False)
    extent = core.Timeline([core.Segment(0, 1000)])
    metric = metrics.DiarizationErrorRate(collar=2 * collar)
    expected = metric(annotation(true), annotation(found), uem=extent)
    assert diarization_error(true, found, collar).rate == pytest.approx(expected, abs=1e-6)


def test_rttm_comes_back(tmp_path: Path) -> None:
    turns = [Turn(0.5, 2.25, "speaker1"), Turn(2.25, 3.0, "speaker2")]
    path = tmp_path / "a.rttm"
    path.write_text("".join(rttm_lines("my call.wav", turns)) + "LEXEME x\n")
    assert path.read_text().startswith(
        "SPEAKER my_call.wav 1 0.500 1.750 <NA> <NA> speaker1 <NA> <NA>\n"
    )
    assert read_rttm(path) == {"my_call.wav": turns}
    path.write_text("SPEAKER a 1 zero 1 <NA> <NA> s <NA> <NA>\n")
    with pytest.raises(UserError, match=":1: not `SPEAKER"):
        read_rttm(path)


def voices_of(
    speakers: int, each: int, spread: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, 16) around orthogonal centres, in random order, and whose they are (N,)."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((16, 16)))[0][:speakers]
    who = rng.permutation(np.repeat(np.arange(speakers), each))
    return unit(centres[who] + spread * rng.standard_normal((len(who), 16))), who


def agree(labels: np.ndarray, who: np.ndarray) -> bool:
    """Whether two partitions are the same."""
    return (
        len(set(zip(labels.tolist(), who.tolist()))) == len(set(who.tolist())) == labels.max() + 1
    )


@pytest.mark.parametrize("speakers", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_number_of_voices_is_found(speakers: int, seed: int) -> None:
    vectors, who = voices_of(speakers, 40, 0.12, seed)
    assert agree(agglomerative(vectors @ vectors.T, 0.45), who)
    assert agree(kmeans(vectors, speakers, seed=0), who)


def test_the_ratio_of_variances_is_the_first_eigenvalue_of_discriminant_analysis() -> None:
    """By the definition, and the same in other axes and units."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((90, 6)) @ np.diag([3, 1, 1, 1, 1, 0.5])
    vectors[45:, 0] += 8.0
    starts = 0.75 * np.arange(90)
    starts[60:] += 10.0  # a pause: windows 59 and 60 are no neighbours
    stops = starts + 1.5
    steps = np.delete(np.diff(vectors, axis=0), 59, axis=0)
    within = steps.T @ steps / (2 * 89 - 2)
    within += 2.0 * np.trace(within) / 6 * np.eye(6)
    total = np.cov(vectors.T, bias=True)
    expected = np.linalg.eigvals(np.linalg.solve(within, total)).real.max()

    def ratio(rows: np.ndarray) -> float:
        return variance_ratio(spread_of(rows, starts[: len(rows)], stops[: len(rows)]))

    assert ratio(vectors) == pytest.approx(expected)
    turned = 7.0 * vectors @ np.linalg.qr(rng.standard_normal((6, 6)))[0] + 3.0
    assert ratio(turned) == pytest.approx(expected)
    assert ratio(np.ones((90, 6))) == 1.0
    assert ratio(vectors[:9]) == np.inf


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 4),
        ({"speakers": 2}, 2),
        ({"speakers": 6}, 6),
        ({"min_speakers": 5}, 5),
        ({"max_speakers": 3}, 3),
        ({"max_windows": 40}, 4),
    ],
)
def test_a_number_or_bounds_that_are_given_are_kept(changes: dict[str, int], expected: int) -> None:
    vectors, who = voices_of(4, 40, 0.08)
    labels = cluster(vectors, DiarizeSettings(threshold=0.45, **changes))
    assert len(labels) == len(who)
    assert len(set(labels.tolist())) == expected
    if expected == 4:
        assert agree(labels, who)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_windows(count: int) -> None:
    vectors, _ = voices_of(1, count, 0.1)
    for changes in ({}, {"speakers": 2}, {"min_speakers": 3}):
        assert len(cluster(vectors, DiarizeSettings(**changes))) == count


@pytest.mark.parametrize("penalty", [0.0, 0.5, 2.0, 50.0])
def test_viterbi_is_the_best_of_all_paths(penalty: float) -> None:
    scores = np.random.default_rng(0).standard_normal((7, 3))

    def worth(path: tuple[int, ...]) -> float:
        changes = sum(a != b for a, b in itertools.pairwise(path))
        return scores[np.arange(7), list(path)].sum() - penalty * changes

    best = max(itertools.product(range(3), repeat=7), key=worth)
    assert viterbi(scores, penalty).tolist() == list(best)


def test_resegmentation_takes_back_a_stray_window_and_finds_the_change() -> None:
    """Two voices, 0 to 10.4 s and from there to 20 s; the clustering was wrong in two windows."""
    starts = np.arange(0, 18.6, 0.75)
    stops = starts + 1.5
    share = np.clip((10.4 - starts) / 1.5, 0, 1)[:, None]
    vectors = unit(share * np.array([[1.0, 0.1]]) + (1 - share) * np.array([[0.1, 1.0]]))
    labels = (starts + 0.75 > 10.4).astype(np.int64)
    labels[[3, 20]] = 1 - labels[[3, 20]]
    windows = SpeechWindows(starts, stops, vectors, [(0.0, 9.0), (9.5, 20.0)])
    turns = resegment(windows, labels)
    assert [turn.speaker for turn in turns] == ["speaker1", "speaker1", "speaker2"]
    assert turns[1].stop == pytest.approx(10.4, abs=0.15)
    assert (turns[0].start, turns[0].stop, turns[-1].stop) == (0.0, 9.0, 20.0)


def write_mixture(path: Path, mixture: Mixture) -> Path:
    soundfile.write(path, mixture.samples, RATE, subtype="PCM_16")
    path.with_suffix(".rttm").write_text("".join(rttm_lines(path.name, mixture.turns)))
    return path


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of two generated voices, with its RTTM beside it."""
    folder = tmp_path_factory.mktemp("call")
    synthetic.prepare(
        folder / "audio",
        folder,
        speakers=3,
        evaluation_speakers=2,
        utterances=4,
        sessions=2,
        shortest=4.0,
        longest=5.0,
    )
    files: dict[str, list[str]] = {}
    manifest = read_manifest(folder / "eval", labels="spk")
    for utterance in manifest:
        files.setdefault(manifest.labels["spk"][utterance.id], []).append(utterance.path)
    mixture = conversation(files, speakers=2, seed=3, seconds=50)
    return write_mixture(folder / "call.wav", mixture)


def test_generated_voices_are_told_apart(call: Path) -> None:
    true = read_rttm(call.with_suffix(".rttm"))["call.wav"]
    found = diarize(speechssl.load("mfcc"), call, speakers=2)
    assert found.speakers == ["speaker1", "speaker2"]
    assert found.vectors.shape == (2, 40)
    error = diarization_error(true, found.turns, 0.25)
    one_speaker = [Turn(turn.start, turn.stop, "one") for turn in true]
    assert error.rate < 0.15 < diarization_error(true, one_speaker, 0.25).rate


def test_the_command_writes_a_folder_and_names_what_it_left_out(
    call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "a b.wav").write_bytes(call.read_bytes())
    soundfile.write(inputs / "silent.wav", np.zeros(RATE), RATE)
    (inputs / "notes.txt").write_text("words")
    out = tmp_path / "out"
    reference = tmp_path / "true.rttm"
    reference.write_text(call.with_suffix(".rttm").read_text().replace("call.wav", "a_b.wav"))
    words = ["--out", str(out), "--speakers", "2", "--reference", str(reference), "--tables"]
    assert main(["diarize", "mfcc", str(inputs), *words, "--device", "cpu"]) == 0
    names = sorted(os.listdir(out))
    assert names == ["a_b.wav.csv", "a_b.wav.json", "a_b.wav.png", "a_b.wav.rttm", "skipped.tsv"]
    said = capsys.readouterr().err
    assert "diarized 1 recording into" in said and "1 failed; 1 other files passed over" in said
    assert "DER" in said and "guesses" not in said
    skipped = (out / "skipped.tsv").read_text().splitlines()
    assert len(skipped) == 3 and "no speech was found" in skipped[1] and "text" in skipped[2]
    turns = read_rttm(out / "a_b.wav.rttm")["a_b.wav"]
    rows = (out / "a_b.wav.csv").read_text().splitlines()[1:]
    assert len(rows) == len(turns)
    assert (out / "a_b.wav.png").read_bytes().startswith(b"\x89PNG")

    one_file = tmp_path / "all.rttm"
    assert main(["diarize", "mfcc", str(call), "--out", str(one_file), "--device", "cpu"]) == 0
    assert "numbers of speakers are guesses; give --speakers N" in capsys.readouterr().err
    assert list(read_rttm(one_file)) == ["call.wav"]


def test_each_channel_of_a_call_is_a_side_of_its_own(call: Path, tmp_path: Path) -> None:
    """What is found in a channel is what is found in a file of that channel; silence has no speaker."""
    samples = soundfile.read(call, dtype="float32")[0]
    later = np.roll(samples, 5 * RATE)
    silent = np.zeros_like(samples)
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "call.wav", np.stack([samples, later, silent], axis=1), RATE)
    soundfile.write(tmp_path / "later.wav", later, RATE)
    words = ["--speakers", "2", "--device", "cpu"]
    out = tmp_path / "out"
    each = [*words, "--channel", "each", "--out", str(out), "--tables"]
    assert main(["diarize", "mfcc", str(folder), *each]) == 0
    fields = [line.split() for line in (out / "call.wav.rttm").read_text().splitlines()]
    assert {(line[2], line[7]) for line in fields} == {
        (str(channel), f"channel{channel}-speaker{speaker}")
        for channel in (1, 2)
        for speaker in (1, 2)
    }
    alone = diarize(speechssl.load("mfcc", device="cpu"), tmp_path / "later.wav", speakers=2)
    second = [line for line in fields if line[2] == "2"]
    assert [float(line[3]) for line in second] == pytest.approx(
        [turn.start for turn in alone.turns], abs=1e-3
    )
    one_file = tmp_path / "all.rttm"
    words += ["--channel", "each", "--out", str(one_file)]
    assert main(["diarize", "mfcc", str(folder), *words]) == 0
    assert one_file.read_text() == (out / "call.wav.rttm").read_text()


@pytest.mark.parametrize("choice", [{}, {"each_channel": True}, {"channel": 1}])
def test_a_recording_that_is_a_channel_already_stays_it(
    choice: dict[str, int], call: Path, tmp_path: Path
) -> None:
    """As `prepare folder --channels each` writes it."""
    samples, rate = soundfile.read(call, dtype="float32")
    soundfile.write(tmp_path / "two.wav", np.stack([samples, np.roll(samples, 5 * rate)], 1), rate)
    soundfile.write(tmp_path / "later.wav", np.roll(samples, 5 * rate), rate)
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text(f"later {tmp_path}/two.wav\n")
    (data / "reco2channel").write_text("later 2\n")
    embedder = speechssl.load("mfcc", device="cpu")
    found = diarize_to_files(embedder, [data], tmp_path / "out", DiarizeSettings(**choice)).turns
    assert found["later"] == diarize(embedder, tmp_path / "later.wav").turns


def test_speakers_with_one_name_become_one() -> None:
    turns = [Turn(0, 1, "speaker1"), Turn(1, 2, "speaker2"), Turn(2, 3, "speaker3")]
    vectors = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    speakers = ["speaker1", "speaker2", "speaker3"]
    found = Diarization(turns, vectors, speakers, {"speaker1": 1, "speaker2": 2, "speaker3": 2})
    named = found.renamed({"speaker1": "Anna B", "speaker2": "Anna B"})
    assert [turn.speaker for turn in named.turns] == ["Anna_B", "Anna_B", "speaker3"]
    assert named.speakers == ["Anna_B", "speaker3"]
    np.testing.assert_allclose(named.vectors, [[0.5**0.5, 0.5**0.5], [0, -1]], atol=1e-6)
    assert named.channel_of == {"Anna_B": 1, "speaker3": 2}


def test_known_voices_get_their_names(
    call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The voice of the true first speaker is registered, and of somebody else who is not there."""
    true = read_rttm(call.with_suffix(".rttm"))["call.wav"]
    samples = soundfile.read(call, dtype="float32")[0]
    first = true[0].speaker
    rng = np.random.default_rng(0)
    own = [turn for turn in true if turn.speaker == first and turn.stop - turn.start > 1]
    for number, turn in enumerate(own[:6]):
        piece = samples[round(turn.start * RATE) : round(turn.stop * RATE)]
        (tmp_path / "known/anna").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"known/anna/{number}.wav", piece, RATE)
    for number in range(6):
        (tmp_path / "known/hiss").mkdir(parents=True, exist_ok=True)
        hiss = rng.normal(0, 0.1, 2 * RATE)
        soundfile.write(tmp_path / f"known/hiss/{number}.wav", hiss, RATE)
    voices = str(tmp_path / "voices.safetensors")
    on_cpu = ["--device", "cpu"]
    assert main(["register", "mfcc", str(tmp_path / "known"), "--out", voices, *on_cpu]) == 0
    words = ["diarize", "mfcc", str(call), "--speakers", "2", "--voices", voices, *on_cpu]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    found = read_rttm(tmp_path / "out/call.wav.rttm")["call.wav"]
    assert "anna" in {turn.speaker for turn in found}
    assert "hiss" not in {turn.speaker for turn in found}
    (tmp_path / "few").mkdir()
    soundfile.write(tmp_path / "few/anna.wav", samples[: 3 * RATE], RATE)
    capsys.readouterr()
    assert main(["register", "mfcc", str(tmp_path / "few"), "--out", voices, *on_cpu]) == 0
    assert main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "no threshold is known" in capsys.readouterr().err


def test_a_known_voice_in_a_call_is_judged_as_by_telephone(call: Path, tmp_path: Path) -> None:
    """By this calibration everybody is anna, but for a wide-band voice in a narrow-band call."""
    model = tmp_path / "model"
    make_model().save(model)
    Calibration(10.0, 100.0, 9, 3, 1.5, "set", one_narrow=-1000.0).write(model / "calibration.json")
    (tmp_path / "anna").mkdir()
    soundfile.write(tmp_path / "anna/1.wav", soundfile.read(call)[0][: 3 * RATE], RATE)
    voices = str(tmp_path / "voices.safetensors")
    words = [str(model), "--device", "cpu"]
    assert (
        main(["register", *words, str(tmp_path / "anna"), "--name", "anna", "--out", voices]) == 0
    )
    narrow = tmp_path / "narrow.wav"
    soundfile.write(narrow, read(str(call), 8000), 8000)
    for recording, is_named in ((call, True), (narrow, False)):
        out = tmp_path / recording.stem
        arguments = [str(recording), "--speakers", "2", "--voices", voices, "--out", str(out)]
        assert main(["diarize", *words, *arguments]) == 0
        turns = read_rttm(out / f"{recording.name}.rttm")[recording.name]
        assert ({turn.speaker for turn in turns} == {"anna"}) == is_named
    # A call with a wide band on its left, and a telephone on its right.
    wide = soundfile.read(call)[0]
    by_telephone = read(str(narrow), RATE)[: len(wide)]
    both = tmp_path / "both.wav"
    soundfile.write(both, np.stack([wide[: len(by_telephone)], by_telephone], axis=1), RATE)
    arguments = [str(both), "--speakers", "2", "--voices", voices, "--out"]
    each = tmp_path / "each.rttm"
    assert main(["diarize", *words, *arguments, str(each), "--channel", "each"]) == 0
    assert {turn.speaker for turn in read_rttm(each)["both.wav"]} == {
        *("anna", "channel2-speaker1", "channel2-speaker2"),
    }
    right = tmp_path / "right.rttm"
    assert main(["diarize", *words, *arguments, str(right), "--channel", "2"]) == 0
    assert {turn.speaker for turn in read_rttm(right)["both.wav"]} == {"speaker1", "speaker2"}


def test_a_segment_is_a_recording_that_begins_at_0(call: Path, tmp_path: Path) -> None:
    """Of a Kaldi directory with `segments`; the second half is the call itself, later."""
    embedder = speechssl.load("mfcc")
    seconds = soundfile.info(call).duration
    begin, end = round(0.4 * seconds, 1), round(0.9 * seconds, 1)
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text(f"call {call}\n")
    (data / "segments").write_text(f"late call {begin} {end}\nearly call 0 {begin}\n")
    found = diarize_to_files(embedder, [data], tmp_path / "out").turns
    assert set(found) == {"late", "early"}
    assert found["late"][0].start >= 0 and found["late"][-1].stop <= end - begin + 0.1
    assert found["early"][-1].stop <= begin + 0.1
    samples, rate = soundfile.read(call, dtype="float32")
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, samples[round(begin * rate) : round(end * rate)], rate, subtype="FLOAT")
    for got, expected in zip(found["late"], diarize(embedder, cut).turns, strict=True):
        assert got[:2] == pytest.approx(expected[:2], abs=0.11) and got[2] == expected[2]


def test_what_cannot_be_is_one_line(call: Path, tmp_path: Path, capsys) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    out = str(tmp_path / "x.rttm")
    assert main(["diarize", "mfcc", str(tmp_path / "silent.wav"), "--out", out]) == 2
    assert "none of 1 recordings can be used" in capsys.readouterr().err
    assert not Path(out).exists()
    contradictions = (
        {"speakers": 2, "min_speakers": 3},
        {"speakers": 10, "max_speakers": 8},
        {"min_speakers": 9},
    )
    for changes in contradictions:
        with pytest.raises(UserError, match="speakers"):
            DiarizeSettings(**changes).check()
    DiarizeSettings(speakers=10).check()
    DiarizeSettings(speakers=3, min_speakers=2, max_speakers=3).check()
    for changes in ({"min_speakers": 3, "max_speakers": 2}, {"hop": 2.0}, {"threshold": 3.0}):
        with pytest.raises(UserError):
            DiarizeSettings(**changes).check()


def test_names_of_files_stay_in_their_folder() -> None:
    assert file_names(["../../etc/x", "a/b", "a_b", ".", "A_B"]) == [
        "_.._etc_x",
        "a_b",
        "a_b_2",
        "recording",
        "A_B_3",
    ]


def test_noise_is_a_recording_of_one_speaker_at_least(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(0.7), RATE)
    found = diarize(speechssl.load("mfcc"), tmp_path / "a.wav")
    assert found.speakers == ["speaker1"]


@pytest.mark.slow
@pytest.mark.skipif("SPEECHSSL_DATA" not in os.environ, reason="SPEECHSSL_DATA is not set")
def test_real_speech_of_three_people(tmp_path: Path) -> None:
    files = speakers_of(Path(os.environ["SPEECHSSL_DATA"]) / "librispeech_test")
    mixture = conversation(files, speakers=3, seed=0, seconds=90)
    path = write_mixture(tmp_path / "talk.wav", mixture)
    found = diarize(speechssl.load("mfcc"), path, speakers=3)
    assert diarization_error(mixture.turns, found.turns, 0.25).rate < 0.25


def test_the_example_of_the_readme(call: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = readme_code("diarize")
    names: dict[str, object] = {"path": call}
    exec(code, names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(names["found"].turns)
    assert names["found"].vectors.shape == (len(names["found"].speakers), 40)


def test_whitening_takes_away_what_moves_within_a_speaker() -> None:
    """Speakers differ in one direction; another one, stronger, moves from window to window."""
    rng = np.random.default_rng(0)
    who = np.repeat([0, 1, 0, 1], 30)
    vectors = 0.05 * rng.standard_normal((120, 6))
    vectors[:, 0] += np.where(who == 0, 0.5, -0.5)
    vectors[:, 1] += rng.standard_normal(120)
    vectors[:, 2] += 5.0
    vectors = unit(vectors)
    starts = 0.75 * np.arange(120)
    white = whitened(vectors, spread_of(vectors, starts, starts + 1.5))
    same = who[:, None] == who

    def gap(rows: np.ndarray) -> float:
        cosines = rows @ rows.T
        return float(cosines[same].mean() - cosines[~same].mean())

    plain = unit(vectors - vectors.mean(0))
    assert gap(white) > 1.5 > 0.9 > gap(plain)
    assert agree(kmeans(white, 2, seed=0), who)
    assert not agree(kmeans(plain, 2, seed=0), who)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1)


def test_whitened_vectors_by_the_definition() -> None:
    """Their inner products are those of W^-1, the covariance of neighbours' differences over 2, floored."""
    rng = np.random.default_rng(2)
    vectors = unit(rng.standard_normal((50, 6)) + [3, 0, 0, 0, 0, 0])
    starts = 0.75 * np.arange(50)
    steps = np.diff(vectors, axis=0)
    within = steps.T @ steps / (2 * 49)
    within += 0.3 * np.trace(within) / 6 * np.eye(6)
    centred = vectors - vectors.mean(0)
    products = centred @ np.linalg.solve(within, centred.T)
    lengths = np.sqrt(np.diag(products))
    white = whitened(vectors, spread_of(vectors, starts, starts + 1.5))
    np.testing.assert_allclose(white @ white.T, products / np.outer(lengths, lengths), atol=1e-9)
    few = whitened(vectors[:9], spread_of(vectors[:9], starts[:9], starts[:9] + 1.5))
    np.testing.assert_allclose(few, unit(vectors[:9] - vectors[:9].mean(0)))  # centred only
    np.testing.assert_array_equal(whitened(vectors[:1], None), vectors[:1])


def test_the_windows_of_a_recording_are_decomposed_once(
    call: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    svd = np.linalg.svd

    def counted(rows: np.ndarray, **words: bool) -> tuple[np.ndarray, ...]:
        shapes.append(rows.shape)
        return svd(rows, **words)

    monkeypatch.setattr(np.linalg, "svd", counted)
    diarize(speechssl.load("mfcc"), call)
    assert len(shapes) == 1


def test_small_clusters_join_the_nearest() -> None:
    vectors = unit(np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.5, 1]]))
    labels = np.array([0, 0, 0, 3, 3, 7])
    assert merge_small(labels, vectors, 2).tolist() == [0, 0, 0, 1, 1, 1]
    assert merge_small(labels, vectors, 3).tolist() == [0, 0, 0, 1, 1, 1]
    assert set(merge_small(labels, vectors, 100).tolist()) == {0}
    assert merge_small(labels, vectors, 1).tolist() == [0, 0, 0, 1, 1, 2]


def test_bars_of_a_picture_are_one_where_nobody_sees_the_gap() -> None:
    turns = [Turn(0, 1, "x"), Turn(1.01, 2, "x"), Turn(0.5, 0.7, "x"), Turn(3, 4, "x")]
    assert _bars(turns, 0.1) == [(0, 2), (3, 1)]
    many = [Turn(i / 1000, i / 1000 + 5e-4, "x") for i in range(20_000)]
    assert len(_bars(many, 20 / 4000)) == 1
