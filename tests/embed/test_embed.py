"""Embedder and embed_to_file: a batch equals its files alone, nothing is lost, a bad input is one
line.
"""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from builders import ENCODERS, RATE, ROOT, make_model, noise, write_audio

import speechssl
from speechssl.__main__ import main
from speechssl.data.vectors.files import read_vectors
from speechssl.embed import Embedder, embed_to_file, load
from speechssl.embed import batches as batching
from speechssl.embed.batch_encoder import BatchEncoder
from speechssl.embed.partial import PartialWriter, merge, open_partial_results
from speechssl.embed.sources import collect
from speechssl.embed.workers import run_processes
from speechssl.errors import MachineError, UserError
from speechssl.locks import sole_writer
from speechssl.model import Model

ARABIC = "\u0633\u0644\u0627\u0645"


def make_embedder(encoder: str = "ecapa", **settings) -> Embedder:
    return Embedder(make_model(encoder, n_mels=48), **settings)  # redimnet: a multiple of 6


def write(path, seconds=1.0, seed=0, rate=RATE):
    subtype = "FLOAT" if path.suffix == ".wav" else None
    return write_audio(path, noise(seconds, rate, seed), rate, subtype=subtype)


def assert_close(found, expected):
    """Equal to 1e-5 of the size of an embedding's largest number."""
    expected = np.asarray(expected)
    assert np.abs(np.asarray(found) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@pytest.fixture(scope="module")
def embedder():
    return make_embedder()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_embedder().save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path):
    """Seven files of different lengths, in two folders, one name with a space and one not ASCII."""
    names = [
        "a/one.wav",
        "a/two.flac",
        "b/three four.wav",
        "b/\u0633\u0644\u0627\u0645.wav",
        "b/five.ogg",
        "six.wav",
        "z.wav",
    ]
    for seed, name in enumerate(names):
        write(tmp_path / "corpus" / name, 0.4 + 0.37 * seed, seed)
    return tmp_path / "corpus"


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_batch_equals_its_files_alone(encoder, tmp_path):
    embedder = make_embedder(encoder)
    lengths = [0.03, 0.11, 0.5, 0.52, 1.0, 1.31, 2.0]
    paths = [write(tmp_path / f"{i}.wav", seconds, i) for i, seconds in enumerate(lengths)]
    ids, matrix, failed = embedder.embed_files(paths)
    assert list(ids) == [str(path) for path in paths]
    assert matrix.shape == (7, embedder.dim) and matrix.dtype == np.float32 and not failed
    assert_close(matrix, np.stack([embedder.embed(path) for path in paths]))
    assert np.ptp(matrix, axis=0).max() > 1e-3, (
        "embeddings must differ for the comparison to mean something"
    )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encode_batch_lengths_in_samples_or_relative(encoder):
    embedder = make_embedder(encoder)
    waves = torch.zeros(3, RATE)
    sizes = [RATE, 8000, 4000]
    for row, size in enumerate(sizes):
        waves[row, :size] = torch.from_numpy(noise(size / RATE, seed=row))
    alone = np.stack(
        [embedder.embed(waves[row, :size].numpy(), RATE) for row, size in enumerate(sizes)]
    )
    for lengths in (sizes, torch.tensor(sizes), [1.0, 0.5, 0.25], torch.tensor([1.0, 0.5, 0.25])):
        found = embedder.encode_batch(waves, lengths)
        assert found.shape == (3, embedder.dim) and not found.requires_grad
        assert_close(found, alone)
    assert_close(embedder.encode_batch(waves[0]), alone[:1])


@pytest.mark.parametrize(
    "lengths", [[0, 5], [0.0, 1.0], [1.5, 1.0], [20000, 5], [1.0], [[1.0], [1.0]]]
)
def test_encode_batch_refuses_lengths_that_do_not_fit(embedder, lengths):
    with pytest.raises(UserError, match="encode_batch"):
        embedder.encode_batch(torch.randn(2, RATE), lengths)
    with pytest.raises(UserError, match="shape"):
        embedder.encode_batch(torch.randn(2, 0))


def test_another_rate_is_resampled(embedder):
    """A sum of sinusoids, sampled at three rates, is the same sound."""

    def tone(rate):
        time = np.arange(2 * rate) / rate
        return 0.1 * sum(np.sin(2 * np.pi * f * time + f) for f in (210, 430, 890, 1720, 2900))

    at_model_rate = embedder.embed(tone(RATE), RATE)
    at_44k = embedder.embed(tone(44100), 44100)
    mistaken = embedder.embed(tone(44100), RATE)
    assert np.abs(at_44k - at_model_rate).max() < 0.3 * np.abs(mistaken - at_model_rate).max()


def test_a_file_equals_its_array_at_any_rate(embedder, tmp_path):
    for rate in (8000, 16000, 22050, 48000):
        path = write(tmp_path / f"{rate}.wav", 1.5, 3, rate)
        assert_close(embedder.embed(path), embedder.embed(noise(1.5, rate, seed=3), rate))


def test_stereo_and_integers(embedder):
    left, right = noise(1.0, seed=1), noise(1.0, seed=2)
    mixed = embedder.embed((left + right) / 2, RATE)
    assert_close(embedder.embed(np.stack([left, right], axis=1), RATE), mixed)
    assert_close(embedder.embed(np.stack([left, right]), RATE), mixed)
    integers = np.round(left * 32768).astype(np.int16)
    assert_close(embedder.embed(integers, RATE), embedder.embed(integers / 32768, RATE))


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (noise(1.0), None, "sampling rate"),
        (noise(1.0), 0, "sampling rate"),
        (np.zeros(0, np.float32), RATE, "empty"),
        (np.zeros(RATE, np.float32), RATE, "silent"),
        (np.full(RATE, 0.3, np.float32), RATE, "silent"),
        (np.r_[noise(1.0), np.float32("nan")], RATE, "NaN"),
        (np.zeros((2, 2, 2)), RATE, "shape"),
        (np.array([1j, 2j]), RATE, "numbers"),
    ],
)
def test_bad_arrays(embedder, samples, rate, message):
    with pytest.raises(UserError, match=message):
        embedder.embed(samples, rate)


def test_bad_files(embedder, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        embedder.embed(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(UserError, match="silent"):
        embedder.embed(tmp_path / "silent.wav")


def test_a_long_recording_is_the_mean_of_its_pieces(tmp_path):
    samples = noise(6.0, seed=5)
    path = tmp_path / "long.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    whole, pieces = make_embedder(), make_embedder(max_seconds=2.0)
    parts = [whole.embed(part, RATE) for part in np.split(samples, 3)]
    assert_close(pieces.embed(path), np.mean(parts, axis=0))
    assert_close(pieces.embed(samples, RATE), np.mean(parts, axis=0))
    samples[2 * RATE : 4 * RATE] = 0.0
    assert_close(pieces.embed(samples, RATE), (parts[0] + parts[2]) / 2)


def test_bfloat16_is_close_and_blind_to_padding(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", 0.5 + 0.2 * i, i) for i in range(4)]
    exact = make_embedder().embed_files(paths)[1]
    rough = make_embedder(precision="bfloat16").embed_files(paths)[1]
    assert rough.dtype == np.float32
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.99


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="8 bits need VNNI")
def test_int8_is_close_blind_to_padding_and_leaves_the_model_as_it_is(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", 0.5 + 0.2 * i, i) for i in range(4)]
    model = Model({}, {"name": "ecapa", "width": 256})
    exact = Embedder(model).embed_files(paths)[1]
    in_8_bits = Embedder(model, precision="int8")
    rough = in_8_bits.embed_files(paths)[1]
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.99
    assert not np.array_equal(exact, rough)
    in_8_bits.save_pretrained(tmp_path / "saved")
    assert np.array_equal(load(tmp_path / "saved").embed_files(paths)[1], exact)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "int8"},  # its small encoder has no large products
        {"precision": "float16"},
        {"device": "abacus"},
        {"batch_seconds": 0.0},
        {"max_seconds": 0.0},
        {"readers": 0},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(UserError, match="embed: "):
        make_embedder(**settings)


def test_save_and_load(embedder, model_folder):
    again = speechssl.load(model_folder)
    assert (again.dim, again.sample_rate, again.rate) == (12, RATE, RATE)
    assert np.array_equal(again.embed(noise(1.0), RATE), embedder.embed(noise(1.0), RATE))
    assert load(model_folder, precision="bfloat16").precision == "bfloat16"


def test_scikit_learn_pipeline(embedder, tmp_path):
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    paths = [write(tmp_path / f"{i}.wav", 0.5, i) for i in range(4)]
    arrays = [noise(0.5, seed=i) for i in range(4)]
    expected = embedder.embed_files(paths)[1]
    assert_close(embedder.fit(paths).transform(paths), expected)
    assert_close(embedder.fit_transform(arrays), expected)
    assert_close(embedder.transform([paths[0], arrays[1]]), expected[:2])
    assert len(embedder.get_feature_names_out()) == embedder.dim
    pipeline = make_pipeline(embedder, StandardScaler(), LogisticRegression())
    assert clone(pipeline).fit(paths, [0, 1, 0, 1]).predict(paths).shape == (4,)
    assert len(cross_val_score(pipeline, arrays, [0, 1, 0, 1], cv=2)) == 2
    with pytest.raises(UserError, match="no such file"):
        embedder.transform([paths[0], "nowhere.wav"])


def test_batches_are_sorted_full_and_complete():
    pieces = [
        batching.Piece(i, 1, "", 0.0, None, s) for i, s in enumerate([3.0, 1.0, 2.0, 1.0, 9.0, 1.0])
    ]
    found = batching.make_batches(pieces, 4.0)
    assert [[piece.seconds for piece in batch] for batch in found] == [
        [9.0],
        [3.0],
        [2.0],
        [1.0, 1.0, 1.0],
    ]
    rng = np.random.default_rng(0)
    pieces = [
        batching.Piece(i, 1, "", 0.0, None, float(s))
        for i, s in enumerate(rng.uniform(0.2, 9, 300))
    ]
    found = batching.make_batches(pieces, 30.0)
    assert sorted(piece.index for batch in found for piece in batch) == list(range(300))
    for batch in found:
        (edge,) = {batching.bucket_edge(piece.seconds) for piece in batch}
        assert len(batch) * edge <= 30.0


def test_bucket_edges():
    assert batching.bucket_edge(4.0) == 4.0
    assert batching.bucket_edge(4.01) == pytest.approx(4.0 * 2 ** (1 / 8))


def test_ids_of_each_kind_of_input(corpus, tmp_path, monkeypatch):
    expected = ["a/one.wav", "a/two.flac", "b/five.ogg", "b/three_four.wav", f"b/{ARABIC}.wav"]
    folder, skipped = collect([corpus])
    assert [utterance.id for utterance in folder] == [*expected, "six.wav", "z.wav"] and not skipped
    assert folder[3].path == str(corpus / "b/three four.wav")
    assert [u.id for u in collect([corpus / "b/three four.wav", corpus / "z.wav"])[0]] == [
        "three_four.wav",
        "z.wav",
    ]
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"r1 {corpus / 'b/three four.wav'}\nr2 {corpus / 'z.wav'}\n")
    assert [(u.id, u.path) for u in collect([kaldi / "wav.scp"])[0]][0] == (
        "r1",
        str(corpus / "b/three four.wav"),
    )
    (kaldi / "segments").write_text("u1 r2 0.5 1.5\nu2 r2 1.0 2.0\nu3 r1 0.0 0.5\n")
    assert [(u.id, u.start, u.stop) for u in collect([kaldi])[0]][:2] == [
        ("u1", 0.5, 1.5),
        ("u2", 1.0, 2.0),
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{corpus}/a/one.wav\n\n{corpus}/z.wav\n"))
    assert [utterance.id for utterance in collect(["-"])[0]] == [
        f"{corpus}/a/one.wav",
        f"{corpus}/z.wav",
    ]


def test_a_name_on_standard_input_that_is_not_utf_8_is_embedded(tmp_path, monkeypatch):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.wav")
    write(tmp_path / "a.wav").rename(name)
    lines = io.TextIOWrapper(io.BytesIO(os.fsencode(name) + b"\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    assert main(["embed", "mfcc", "-", "--out", str(tmp_path / "x.npz")]) == 0
    ids, _ = read_vectors(tmp_path / "x.npz")
    assert ids.tolist() == [f"{tmp_path}/a\ufffd.wav"]


def test_inputs_that_are_no_use(corpus, tmp_path, monkeypatch):
    write(tmp_path / "other" / "z.wav")
    with pytest.raises(
        UserError, match=r"'z.wav' stands for both .*corpus/z.wav and .*other/z.wav"
    ):
        collect([corpus / "z.wav", tmp_path / "other"])
    with pytest.raises(UserError, match="no such file or folder"):
        collect([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        collect([tmp_path / "empty"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match="standard input holds no paths"):
        collect(["-"])
    with pytest.raises(UserError, match="no input"):
        collect([])


def test_segments_are_pieces_of_their_recording(embedder, tmp_path):
    samples = noise(3.0, seed=4)
    soundfile.write(tmp_path / "r.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"r {tmp_path / 'r.wav'}\n")
    (tmp_path / "segments").write_text("u1 r 0.5 1.5\nu2 r 1.0 3.0\n")
    summary = embed_to_file(embedder, [tmp_path], tmp_path / "e.npz")
    ids, matrix = read_vectors(tmp_path / "e.npz")
    assert list(ids) == ["u1", "u2"]
    assert summary.audio_seconds == pytest.approx(3.0)
    assert_close(matrix[0], embedder.embed(samples[8000:24000], RATE))
    assert_close(matrix[1], embedder.embed(samples[16000:], RATE))


@pytest.mark.parametrize("name", ["e.npz", "e.ark", "e.scp", "e.parquet"])
def test_every_format_holds_every_utterance_in_the_order_of_the_inputs(
    model_folder, embedder, corpus, tmp_path, name
):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    out = tmp_path / "deep" / name
    summary = embed_to_file(model_folder, [corpus], out)
    ids, matrix = read_vectors(out)
    utterances = collect([corpus])[0]
    assert list(ids) == [utterance.id for utterance in utterances]
    assert_close(matrix, embedder.embed_files([utterance.path for utterance in utterances])[1])
    assert (summary.embedded, summary.failed, summary.failed_list) == (7, [], None)
    assert "embedded 7 of 7" in str(summary)
    assert not list(out.parent.glob("*.parts")) and not list(out.parent.glob("*.failed"))


def test_standard_output_has_one_line_an_utterance(model_folder, corpus, capsys):
    embed_to_file(model_folder, [corpus / "z.wav", corpus / "six.wav"], "-")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["z.wav", "six.wav"]
    assert len(lines[0].split()) == 1 + 12


@pytest.fixture
def bad_corpus(corpus):
    (corpus / "empty.wav").write_bytes(b"")
    (corpus / "text.flac").write_text("this is not audio")
    soundfile.write(corpus / "nothing.wav", np.zeros(0), RATE)
    soundfile.write(corpus / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(corpus / "nan.wav", np.r_[noise(0.5), np.float32("nan")], RATE, subtype="FLOAT")
    whole = (corpus / "z.wav").read_bytes()
    (corpus / "cut.wav").write_bytes(whole[: len(whole) // 2])
    write(corpus / "blink.wav", 0.001)
    return corpus


def test_bad_files_are_skipped_counted_and_listed_and_nothing_else_is_lost(
    model_folder, bad_corpus, tmp_path
):
    good = [u.id for u in collect([bad_corpus])[0]]
    summary = embed_to_file(model_folder, [bad_corpus], tmp_path / "e.npz")
    bad = {
        line.split("\t")[0]: line.split("\t")
        for line in (tmp_path / "e.npz.failed").read_text().splitlines()
    }
    assert {"empty.wav", "text.flac", "nothing.wav", "silent.wav", "nan.wav"} <= set(bad)
    assert list(read_vectors(tmp_path / "e.npz")[0]) == [name for name in good if name not in bad]
    assert len(summary.failed) == len(bad) and summary.embedded == len(good) - len(bad)
    assert {"blink.wav", "z.wav"}.isdisjoint(bad)
    assert (
        bad["silent.wav"][1] == str(bad_corpus / "silent.wav") and "silent" in bad["silent.wav"][2]
    )
    assert "NaN" in bad["nan.wav"][2]
    assert f"{len(bad)} failed, listed in" in str(summary)
    with pytest.raises(UserError):
        embed_to_file(model_folder, [bad_corpus], tmp_path / "f.npz", keep_going=False)
    assert not (tmp_path / "f.npz").exists()


def test_lines_of_wav_scp_that_are_no_use(model_folder, corpus, tmp_path):
    scp = tmp_path / "wav.scp"
    scp.write_text(
        f"a {corpus / 'z.wav'}\nb {tmp_path}/gone.wav\nc cat {corpus}/z.wav |\nd\na"
        f" {corpus}/six.wav\n"
    )
    summary = embed_to_file(model_folder, [scp], tmp_path / "e.npz")
    assert list(read_vectors(tmp_path / "e.npz")[0]) == ["a"]
    assert sorted(failure.id for failure in summary.failed) == ["a", "b", "c", "d"]
    summary = embed_to_file(model_folder, [scp], tmp_path / "e.npz", allow_pipes=True)
    ids, matrix = read_vectors(tmp_path / "e.npz")
    assert list(ids) == ["a", "c"]
    assert_close(matrix[0], matrix[1])
    with pytest.raises(UserError, match="no such file"):
        embed_to_file(model_folder, [scp], tmp_path / "e.npz", keep_going=False)


def test_nothing_to_embed_is_an_error(model_folder, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"")
    with pytest.raises(UserError, match="none of 1 utterances"):
        embed_to_file(model_folder, [tmp_path / "bad"], tmp_path / "e.npz")
    assert not (tmp_path / "e.npz").exists()
    assert (tmp_path / "e.npz.failed").read_text().startswith("a.wav\t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "e.npz.failed"]


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("e.pkl", {}, "npz"),
        ("e.npz", {"jobs": 0}, "jobs"),
        ("e.npz", {"every": 0}, "every"),
        ("-", {"resume": True}, "resume"),
    ],
)
def test_settings_that_cannot_be(
    model_folder, corpus, tmp_path, monkeypatch, out, settings, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        embed_to_file(model_folder, [corpus], out, **settings)


def test_resume_goes_on_from_the_parts_of_a_broken_run(corpus, tmp_path, monkeypatch):
    embedder, out, found = make_embedder("resnet"), tmp_path / "e.npz", []
    embed_to_file(embedder, [corpus], tmp_path / "unbroken.npz")
    stream = Embedder.stream

    def broken(self, utterances, **settings):
        for number, result in enumerate(stream(self, utterances, **settings)):
            if number == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(Embedder, "stream", broken)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(embedder, [corpus], out)
    assert not out.exists() and (tmp_path / "e.npz.parts").is_dir()

    def watched(self, utterances, **settings):
        for result in stream(self, utterances, **settings):
            found.append(result)
            yield result

    monkeypatch.setattr(Embedder, "stream", watched)
    with pytest.raises(UserError, match="without --resume"):
        embed_to_file(make_embedder("ecapa"), [corpus], out, resume=True)
    assert not found
    embed_to_file(embedder, [corpus], out, resume=True)
    assert len(found) == 4
    assert out.read_bytes() == (tmp_path / "unbroken.npz").read_bytes()
    assert not (tmp_path / "e.npz.parts").exists()


KILLED = """
import os, signal, sys
from builders import make_model
from speechssl.embed import Embedder, embed_to_file, partial

folder = sys.argv[1]
resume = sys.argv[2] == "resume"
embedder = Embedder(make_model("resnet", n_mels=40))
partial.PartialWriter.__init__.__defaults__ = (1, 30.0)  # a part for each utterance


def dying(call, die_at, calls):
    def counted(*arguments, **keywords):
        calls.append(call)
        if len(calls) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **keywords)

    return counted


def run(out, die_at=None, **settings):  # in a child, which is killed before a rename or a removal
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = []
    os.replace = dying(os.replace, die_at, calls)
    os.unlink = dying(os.unlink, die_at, calls)
    embed_to_file(embedder, [folder], out, **settings)
    os._exit(0)


def read(name):
    with open(name, "rb") as file:
        return file.read()


assert run("unbroken.npz") == 0
die_at = 1
while (code := run("a.npz", die_at)) == -signal.SIGKILL:
    assert run("a.npz", resume=resume) == 0
    assert read("a.npz") == read("unbroken.npz"), die_at
    os.remove("a.npz")
    die_at += 1
assert code == 0
os.remove("a.npz")
print(die_at - 1, sorted(os.listdir()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("then", ["resume", pytest.param("start-again", marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_ends_in_the_bits_of_an_unbroken_run(tmp_path, then):
    for seed in range(2):
        write(tmp_path / "audio" / f"{seed}.wav", 0.4 + 0.37 * seed, seed)
    (tmp_path / "audio" / "empty.wav").write_bytes(b"")
    (tmp_path / "work").mkdir()
    root = os.path.dirname(os.path.dirname(speechssl.__file__))
    search = os.pathsep.join([root, str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "audio"), then],
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    count, left = done.stdout.split(" ", 1)
    assert int(count) > 12
    assert "parts" not in left


def test_a_second_process_that_writes_the_same_file_is_refused(embedder, corpus, tmp_path):
    with (
        sole_writer(tmp_path / "e.npz"),
        pytest.raises(UserError, match="another process .* is writing it"),
    ):
        embed_to_file(embedder, [corpus], tmp_path / "e.npz")
    assert not list(tmp_path.glob("e.npz*"))


def test_parts_of_which_nobody_knows_the_model_do_not_count(tmp_path):
    folder = tmp_path / "x.parts"
    open_partial_results(folder, "m", resume=False)
    parts = PartialWriter(folder)
    parts.write("a", np.zeros(4, np.float32))
    parts.flush()
    assert open_partial_results(folder, "m", resume=True) == {"a"}
    (folder / "made_by.json").unlink()
    assert open_partial_results(folder, "m", resume=True) == set()
    assert open_partial_results(folder, "m", resume=True) == set()


def test_without_resume_old_parts_are_thrown_away(tmp_path):
    folder = tmp_path / "x.parts"
    assert open_partial_results(folder, "m", resume=False) == set()
    parts = PartialWriter(folder, size=2)
    for index in range(3):
        parts.write(str(index), np.full(4, index, np.float32))
    parts.finish(0, [], 1.0)
    assert open_partial_results(folder, "m", resume=True) == {"0", "1", "2"}
    rows: list = []

    class Writer:
        def write(self, ids, matrix, spans=None):
            rows.extend(zip(ids, matrix[:, 0].tolist(), strict=True))

    assert merge(folder, ["2", "missing", "0", "1"], Writer()) == 3
    assert rows == [("2", 2.0), ("0", 0.0), ("1", 1.0)]
    assert open_partial_results(folder, "m", resume=False) == set()


def test_more_parts_are_merged_than_files_may_be_open(tmp_path):
    resource = pytest.importorskip("resource")
    folder = tmp_path / "x.parts"
    open_partial_results(folder, "m", resume=False)
    parts = PartialWriter(folder, size=3)
    for index in range(300):
        parts.write(str(index), np.full(4, index, np.float32))
    ids = [str(index) for index in np.random.default_rng(0).permutation(300)]
    rows: list = []

    class Writer:
        def write(self, ids, matrix, spans=None):
            rows.extend(zip(ids, matrix[:, 0].tolist(), strict=True))

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 50, limits[1]))
    try:
        assert merge(folder, ids, Writer()) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert rows == [(name, float(name)) for name in ids]


def finds_no_descriptor(rank):
    raise MachineError("a.wav: Too many open files")


def test_what_a_worker_has_run_out_of_is_one_line(tmp_path, capfd):
    with pytest.raises(UserError, match="a.wav: Too many open files"):
        run_processes(1, tmp_path, finds_no_descriptor)
    assert capfd.readouterr().err == ""


def test_jobs_give_what_one_process_gives(model_folder, bad_corpus, tmp_path):
    one = embed_to_file(model_folder, [bad_corpus], tmp_path / "one.npz")
    two = embed_to_file(model_folder, [bad_corpus], tmp_path / "two.npz", jobs=2)
    assert two.failed == one.failed and two.embedded == one.embedded
    assert two.audio_seconds == pytest.approx(one.audio_seconds)
    for found, expected in zip(
        read_vectors(tmp_path / "two.npz"), read_vectors(tmp_path / "one.npz"), strict=True
    ):
        if found.dtype == np.float32:
            assert_close(found, expected)
        else:
            assert list(found) == list(expected)


@pytest.mark.slow
def test_the_first_bad_file_of_a_process_ends_them_all(model_folder, bad_corpus, tmp_path):
    with pytest.raises(
        UserError, match="empty.wav|nan.wav|silent.wav|text.flac|nothing.wav|cut.wav"
    ):
        embed_to_file(model_folder, [bad_corpus], tmp_path / "e.npz", jobs=2, keep_going=False)


@pytest.mark.slow
def test_torchrun_gives_what_one_process_gives(model_folder, corpus, tmp_path):
    embed_to_file(model_folder, [corpus], tmp_path / "one.npz")
    script = tmp_path / "embed.py"
    script.write_text(
        "import sys\nfrom speechssl.embed import embed_to_file\n"
        "sys.stdout.write(f'<{embed_to_file(sys.argv[1], [sys.argv[2]], sys.argv[3])}>')\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(script), str(model_folder), str(corpus), str(tmp_path / "two.npz")]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(speechssl.__file__))}
    done = subprocess.run(
        [*run, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "<None>" in done.stdout and "<embedded 7 of 7" in done.stdout
    assert list(read_vectors(tmp_path / "two.npz")[0]) == list(
        read_vectors(tmp_path / "one.npz")[0]
    )
    assert_close(read_vectors(tmp_path / "two.npz")[1], read_vectors(tmp_path / "one.npz")[1])


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path, monkeypatch):
    """Only a few batches of samples are held, however long the file."""
    held: list[int] = []
    embedder = make_embedder(max_seconds=2.0, batch_seconds=4.0)
    encode = BatchEncoder.encode

    def watched(encoder, waves):
        held.append(sum(map(len, waves)))
        return encode(encoder, waves)

    monkeypatch.setattr(BatchEncoder, "encode", watched)
    embedder.embed(write(tmp_path / "long.flac", 60.0))
    assert max(held) <= 4 * RATE and sum(held) == 60 * RATE


def test_every_takes_each_nth_utterance_in_order(embedder, corpus, tmp_path):
    embed_to_file(embedder, [corpus], tmp_path / "all.npz")
    embed_to_file(embedder, [corpus], tmp_path / "some.npz", every=3)
    (ids, rows), (some, few) = (read_vectors(tmp_path / f"{name}.npz") for name in ("all", "some"))
    assert list(some) == list(ids[::3])
    np.testing.assert_allclose(few, rows[::3], atol=1e-5)


def test_jobs_in_a_script_without_the_guard_are_one_line(model_folder, corpus, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from speechssl.embed import embed_to_file\n"
        f"embed_to_file({str(model_folder)!r}, [{str(corpus)!r}], 'e.npz', jobs=2)\n"
    )
    ended = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.stderr.count("Traceback") == 1  # that of the script itself: nobody catches it
    assert "UserError: embed: each of several jobs imports the script" in ended.stderr
    assert '`if __name__ == "__main__":`' in ended.stderr
    assert not (tmp_path / "e.npz").exists()
