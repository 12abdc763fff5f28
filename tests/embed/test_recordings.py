"""Everything that stands for a recording in Python gives the vector of its file."""

import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import speechssl
from speechssl.embed import batch_encoder
from speechssl.embed.embedder import Embedder
from speechssl.embed.recordings import time_first
from speechssl.errors import UserError
from tests.builders import make_model

RATE = 16000


@pytest.fixture(scope="module")
def embedder():
    return Embedder(make_model("resnet", n_mels=40), "cpu")


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    """A stereo file whose channels differ, its samples (T, 2) and its embedding."""
    path = tmp_path_factory.mktemp("stereo") / "call.wav"
    samples = np.random.default_rng(3).normal(0, 0.1, (RATE, 2)).astype(np.float32)
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path, samples


class Decoder:
    """As torchcodec's AudioDecoder, which datasets 4 gives: samples on demand, (C, T)."""

    def __init__(self, samples):
        self.samples = samples

    def get_all_samples(self):
        class Samples:
            data = torch.from_numpy(self.samples.T.copy())
            sample_rate = RATE

        return Samples


class Named(io.BytesIO):
    name = "upload.wav"


def forms(path, samples):
    content = path.read_bytes()
    channels_first = torch.from_numpy(samples.T.copy())
    return {
        "str": str(path),
        "path": path,
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "BytesIO": io.BytesIO(content),
        "waveform": {"waveform": channels_first, "sample_rate": RATE},
        "waveform with a gradient": {
            "waveform": channels_first.clone().requires_grad_(),
            "sample_rate": RATE,
        },
        "audio": {"audio": str(path)},
        "audio object": {"audio": io.BytesIO(content)},
        "datasets": {"array": samples.T, "sampling_rate": RATE, "path": "gone.wav"},
        "undecoded": {"path": "gone.wav", "bytes": content},
        "undecoded path": {"path": str(path), "bytes": None},
        "row": {"text": "hello", "audio": {"array": samples, "sampling_rate": RATE}},
        "decoder": Decoder(samples),
        "row with decoder": {"audio": Decoder(samples), "speaker": 3},
    }


def test_every_form_gives_the_vector_of_the_file(embedder, stereo):
    path, samples = stereo
    expected = embedder.embed(samples.mean(axis=1), RATE)
    for name, source in forms(path, samples).items():
        found = embedder.embed(source)
        assert found.shape == (embedder.dim,)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
    for array in (samples, samples.T, torch.from_numpy(samples.T.copy()), list(samples.mean(1))):
        np.testing.assert_allclose(embedder.embed(array, RATE), expected, atol=1e-5)
    with path.open("rb") as file:
        np.testing.assert_allclose(embedder.embed(file), expected, atol=1e-5)


def test_a_list_gives_a_row_for_each_of_its_recordings(embedder, stereo):
    path, samples = stereo
    sources = list(forms(path, samples).values())
    matrix = embedder.embed(sources)
    assert matrix.shape == (len(sources), embedder.dim)
    np.testing.assert_allclose(matrix, np.tile(embedder.embed(path), (len(sources), 1)), atol=1e-5)
    paths = np.array([str(path), str(path)])
    assert embedder.embed(paths).shape == embedder.embed((path, path)).shape == (2, embedder.dim)
    assert embedder.embed([samples, samples], RATE).shape == (2, embedder.dim)
    assert embedder.embed([]).shape == (0, embedder.dim)


def test_channel_and_span_of_every_form(embedder, stereo):
    path, samples = stereo
    second = embedder.embed(samples[4000:12000, 1], RATE)
    for source in forms(path, samples).values():
        found = embedder.embed(source, start=0.25, stop=0.75, channel=2)
        np.testing.assert_allclose(found, second, atol=1e-5)
    left = embedder.embed(samples[:, 0], RATE)  # pyannote counts channels from 0
    for source in (
        {"audio": path, "channel": 0},
        {**forms(path, samples)["waveform"], "channel": 0},
    ):
        np.testing.assert_allclose(embedder.embed(source), left, atol=1e-5)
    windows = embedder.windows({"audio": path, "channel": 0}, window=0.5, hop=0.25)
    np.testing.assert_allclose(
        windows.embeddings[0], embedder.embed(samples[:8000, 0], RATE), atol=1e-5
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "no bytes"),
        (b"RIFF but no audio", "audio in memory|recording 0"),
        (io.StringIO("text"), "'rb'"),
        (io.BytesIO(b""), "seek"),
        ({}, "no key"),
        ({"text": "hello"}, "text; give"),
        ({"waveform": np.ones((1, RATE))}, "sample_rate is 'None'"),
        ({"array": np.ones(RATE), "sampling_rate": "16k"}, "sampling_rate is '16k'"),
        ({"audio": {"audio": {"audio": {"audio": "a.wav"}}}}, "give"),
        ({"path": "a.wav", "channel": -1}, "counts from 0"),
        ({"path": ""}, "empty"),
        ({"path": None, "bytes": None}, "path, bytes; give"),
        (np.ones((80, 300)), "features"),
        (np.ones((16, RATE)), "batch, or features.*of a batch a list of arrays"),
        (np.ones((3, 1, RATE)), "of a batch a list of arrays, or encode_batch"),
        (np.ones(RATE, np.int64), "full scale is not known"),
        (np.ones((3, 4)), "short enough"),
        ([[0.0, 1.0], [1.0, 0.0]], "list of lists"),
        (object(), "object is no recording"),
        (None, "NoneType is no recording"),
        (3, "int is no recording"),
        (iter([0.0, 1.0]), "list_iterator is no recording"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_fix(embedder, source, message):
    with pytest.raises(UserError, match=message) as raised:
        embedder.embed(source, RATE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rate", [None, 0, -1, "16k", float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(embedder, rate):
    with pytest.raises(UserError, match="needs its sampling rate in Hz"):
        embedder.embed(np.ones(RATE), rate)


def test_iterators_series_and_columns_are_lists(embedder, stereo):
    pandas = pytest.importorskip("pandas")
    path = str(stereo[0])
    expected = embedder.embed([path, path])
    frame = pandas.DataFrame({"path": [path, path], "speaker": ["a", "b"]})
    column = np.array([[path], [path]], dtype=object)
    for source in (iter([path, path]), frame["path"], column):
        np.testing.assert_array_equal(embedder.embed(source), expected)
    np.testing.assert_array_equal(embedder.transform(frame[["path"]]), expected)
    np.testing.assert_array_equal(embedder.transform(column), expected)
    with pytest.raises(UserError, match="columns path, speaker; give the one"):
        embedder.transform(frame)
    samples = pandas.Series(stereo[1][:, 0])
    np.testing.assert_array_equal(
        embedder.embed(samples, RATE), embedder.embed(stereo[1][:, 0], RATE)
    )


def test_the_rate_of_a_data_set_may_be_a_tensor(embedder, stereo):
    samples = stereo[1][:, 0]
    row = {"array": torch.as_tensor(samples), "sampling_rate": torch.tensor(RATE)}
    np.testing.assert_array_equal(embedder.embed(row), embedder.embed(samples, RATE))


def test_an_embedder_of_no_model_is_refused():
    with pytest.raises(UserError, match="a str is no Model; speechssl.load"):
        Embedder("small")


def test_bytes_under_the_name_of_another_file_open_no_file(embedder, stereo, tmp_path):
    """A data set's "path" is somebody else's: it names the recording and is never opened."""
    other = tmp_path / "other.wav"
    soundfile.write(other, np.random.default_rng(9).normal(0, 0.1, RATE), RATE)
    content = stereo[0].read_bytes()
    for name in (str(other), "shards.tar#a.wav", "rm -rf x |", "s3://bucket/a.wav"):
        found = embedder.embed({"path": name, "bytes": content})
        np.testing.assert_array_equal(found, embedder.embed(content))


def test_channels_and_time_are_told_apart():
    tall = np.zeros((1000, 2))
    assert time_first(tall, "x").shape == time_first(tall.T, "x").shape == (1000, 2)
    assert time_first(np.zeros((1, 30)), "x").shape == (30, 1)
    assert time_first(np.zeros((30, 1)), "x").shape == (30, 1)
    assert time_first(np.zeros(30), "x").shape == (30,)


def test_similarity_is_the_cosine(embedder, stereo):
    path, samples = stereo
    a = embedder.embed(samples[:, 0], RATE)
    b = embedder.embed(samples[:, 1], RATE)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert embedder.similarity(a, b) == pytest.approx(cosine, abs=1e-6)
    assert isinstance(embedder.similarity(a, torch.from_numpy(b)), float)
    assert embedder.similarity(path, path.read_bytes()) == pytest.approx(1.0, abs=1e-6)
    table = embedder.similarity([a, b], np.stack([a, b, a]))
    np.testing.assert_allclose(table, [[1, cosine, 1], [cosine, 1, cosine]], atol=1e-6)
    assert embedder.similarity(path, [a, b]).shape == (2,)
    with pytest.raises(UserError, match="no embeddings of 12"):
        embedder.similarity(samples[:, 0], a)
    with pytest.raises(UserError, match="no direction"):
        embedder.similarity(np.zeros(12), a)


def test_repr_says_what_it_is(embedder, tmp_path):
    count = sum(parameter.numel() for parameter in embedder.model.parameters())
    shown = f"resnet, 12 dimensions, 16000 Hz, {count:,} weights, on cpu in float32)"
    assert repr(embedder) == f"Embedder({shown}"
    embedder.save_pretrained(tmp_path / "saved")
    again = speechssl.Embedder.from_pretrained(tmp_path / "saved", "cpu")
    assert repr(again) == f"Embedder({tmp_path / 'saved'}: {shown}"
    assert repr(clone(again)) == repr(again)
    pooled = Embedder(embedder.model, "cpu", layer="pooled")
    assert f"{pooled.dim} dimensions, layer pooled" in repr(pooled)


def test_to_moves_the_model_or_changes_nothing(embedder):
    assert embedder.to("cpu") is embedder and embedder.to(torch.device("cpu")) is embedder
    with pytest.raises(UserError, match="device 'cuda:77' cannot be used"):
        embedder.to("cuda:77")
    assert embedder.device == torch.device("cpu")


def test_auto_goes_to_the_cpu_where_the_gpu_lacks_an_operator(monkeypatch):
    model = make_model("resnet", n_mels=40)
    features = model.features
    calls = []

    def without_float64(waves, lengths=None):
        calls.append(waves.shape)
        if len(calls) == 1:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return features(waves, lengths)

    monkeypatch.setattr(model, "features", without_float64)
    monkeypatch.setattr(batch_encoder, "may_lack_operators", lambda device: True)
    found = Embedder(model, "auto")
    assert len(calls) == 1 and found.device == torch.device("cpu")
    assert np.isfinite(found.embed(np.random.default_rng(0).normal(0, 0.1, RATE), RATE)).all()


def test_pipelines_clones_searches_and_data_frames(embedder, stereo):
    samples = stereo[1]
    sources = [samples[i * 2000 : i * 2000 + 4000, i % 2] * (1 + i % 2) for i in range(6)]
    classes = [0, 1] * 3
    pipeline = make_pipeline(embedder, LogisticRegression())
    search = GridSearchCV(pipeline, {"embedder__layer": ["embedding", "pooled"]}, cv=3)
    search.fit(sources, classes)
    assert search.cv_results_["params"] == [
        {"embedder__layer": "embedding"},
        {"embedder__layer": "pooled"},
    ]
    assert embedder.layer == "embedding"  # the search worked on copies
    copy = clone(embedder)
    assert copy is not embedder and copy.get_params() == embedder.get_params()
    copy.set_params(layer="pooled", batch_seconds=5.0)
    assert copy.dim != embedder.dim and copy.batch_seconds == 5.0
    with pytest.raises(UserError, match="no parameter 'depth'"):
        copy.set_params(depth=3)
    with pytest.raises(UserError, match="batch_seconds"):
        copy.set_params(batch_seconds=-1.0)
    assert copy.batch_seconds == 5.0
    restored = pickle.loads(pickle.dumps(pipeline.fit(sources, classes)))
    np.testing.assert_array_equal(restored.predict(sources), pipeline.predict(sources))
    assert "Embedder" in pipeline._repr_html_()


def test_set_output(embedder, stereo):
    pandas = pytest.importorskip("pandas")
    path, _ = stereo
    framed = clone(embedder).set_output(transform="pandas")
    series = pandas.Series([str(path), str(path)], index=["a", "b"])
    frame = clone(framed).transform(series)
    assert list(frame.columns) == list(embedder.get_feature_names_out())
    assert list(frame.index) == ["a", "b"]
    np.testing.assert_array_equal(frame.to_numpy(), embedder.transform(series))


def test_set_output_default_and_unknown(embedder, stereo):
    sources = [stereo[0]]
    copy = clone(embedder).set_output(transform="default").set_output()
    assert isinstance(copy.transform(sources), np.ndarray)
    with pytest.raises(UserError, match="unknown container 'arrow'"):
        copy.set_output(transform="arrow")
