"""ONNX files of speaker encoders: this package's exports, wespeaker's layout, and what is not run."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import ECAPA, RESNET, XVECTOR, make_model, noise, noises, write_audio
from torch import nn

import speechssl
from speechssl.cli import main
from speechssl.data.vectors.files import read_vectors
from speechssl.embed.networks import load_model
from speechssl.errors import UserError
from speechssl.exporters import onnx as exporter
from speechssl.exporters import sherpa
from speechssl.features.kaldi import Kaldi
from speechssl.model import Model

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")
helper = onnx.helper

SHALLOW = {**ECAPA, "kernel_sizes": [5, 3, 1], "dilations": [1, 2, 1]}


def save(path, nodes, inputs, outputs, initializers=(), functions=(), told=None, domains=("",)):
    """Write a graph of float inputs and outputs, name -> axes."""
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, axes) for name, axes in inputs.items()],
        [helper.make_tensor_value_info(name, kind, axes) for name, axes in outputs.items()],
        list(initializers),
    )
    opsets = [helper.make_opsetid(domain, 18) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
    helper.set_model_props(model, told or {})
    path.write_bytes(model.SerializeToString())
    return path


def mean_of_frames(path, axes=("B", "T", 80), **options):
    """A graph that gives the mean and the largest of the frames: (B, T, 80) to (B, 160)."""
    frames = axes.index("T")
    axis = onnx.numpy_helper.from_array(np.array([frames], np.int64), "axis")
    nodes = [
        helper.make_node("ReduceMean", ["feats", "axis"], ["mean"], keepdims=0),
        helper.make_node("ReduceMax", ["feats", "axis"], ["top"], keepdims=0),
        helper.make_node("Concat", ["mean", "top"], ["embs"], axis=1),
    ]
    return save(path, nodes, {"feats": axes}, {"embs": ["B", 160]}, [axis], **options)


def expected(features, wave):
    frames = features(torch.from_numpy(wave)[None])[0][0]
    return torch.cat([frames.mean(0), frames.max(0).values]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [SHALLOW, RESNET])
def test_our_export_embeds_as_the_model(encoder, tmp_path):
    model = make_model(encoder)
    exporter.write(model, tmp_path)
    loaded = load_model(tmp_path / "model.onnx")
    assert loaded.settings["features"]["name"] == "waveform"
    waves, lengths = noises(3, 24000), torch.tensor([24000, 9000, 16000])
    with torch.no_grad():
        torch.testing.assert_close(loaded(waves), model(waves), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            loaded(waves, lengths), model(waves, lengths), atol=1e-5, rtol=1e-5
        )


def test_our_export_for_sherpa_embeds_as_the_model(tmp_path):
    front_end = {"name": "kaldi", "n_mels": 80, "window_type": "hamming", "scale": 1.0}
    model = make_model(XVECTOR, **front_end)
    with pytest.warns(UserWarning, match="differ a little"):
        sherpa.write(model, tmp_path)
    loaded = load_model(tmp_path / "model.onnx")
    assert loaded.settings["features"] == model.settings["features"]  # exact, not sherpa's
    waves = noises(2, 24000)
    with torch.no_grad():
        torch.testing.assert_close(loaded(waves), model(waves), atol=1e-5, rtol=1e-5)


class Pooled(nn.Module):
    """TSTP, the pooling of wespeaker's ResNets: mean and deviation over frames of (B, C, M, T)."""

    def forward(self, x):
        deviation = torch.sqrt(torch.var(x, dim=-1) + 1e-7)
        return torch.cat([x.mean(dim=-1).flatten(1), deviation.flatten(1)], 1)


class Published(nn.Module):
    """The first stage of wespeaker's ResNet on (B, T, M), as its program computes it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.pool = Pooled()
        self.seg_1 = nn.Linear(2 * 8 * 80, 16)

    def forward(self, feats):
        x = feats.permute(0, 2, 1)[:, None]  # (B, 1, M, T)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.seg_1(self.pool(x))


def test_wespeakers_layout_runs_behind_its_own_features(tmp_path):
    torch.manual_seed(0)
    network = Published().eval()
    exported = torch.export.Dim("T", min=10, max=100_000)
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(
            network,
            (torch.randn(2, 200, 80),),
            str(path),
            input_names=["feats"],
            output_names=["embs"],
            dynamic_shapes=({0: torch.export.Dim("B", max=1 << 20), 1: exported},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    embedder = speechssl.load(path, "cpu")
    assert embedder.dim == 16 and "onnx" in repr(embedder)
    wave = noise(2.0)
    fbank = Kaldi(n_mels=80, window_type="hamming")
    with torch.no_grad():
        want = network(fbank(torch.from_numpy(wave)[None])[0])[0]
    np.testing.assert_allclose(embedder.embed(wave, 16000), want, atol=1e-5)


@pytest.mark.parametrize(
    "told, settings",
    [
        ({"framework": "wespeaker", "normalize_samples": "0"}, {"window_type": "hamming"}),
        ({"framework": "3d-speaker", "normalize_samples": "1"}, {"scale": 1.0}),
        ({"framework": "3d-speaker", "sample_rate": "8000"}, {"sample_rate": 8000, "scale": 1.0}),
        ({"speechssl_features": '{"name": "kaldi", "f_min": 40.0}'}, {"f_min": 40.0}),
    ],
)
def test_metadata_says_which_features(told, settings, tmp_path):
    path = mean_of_frames(tmp_path / "m.onnx", told=told)
    fbank = Kaldi(**{"n_mels": 80, **settings})
    wave = noise(1.0)
    got = speechssl.load(path, "cpu").embed(wave, fbank.sample_rate)
    np.testing.assert_allclose(got, expected(fbank, wave), atol=1e-4)


def test_bands_first_and_one_utterance_at_a_time(tmp_path):
    first = mean_of_frames(tmp_path / "first.onnx", axes=("B", 80, "T"))
    single = mean_of_frames(tmp_path / "single.onnx", axes=(1, "T", 80))
    waves, lengths = noises(3, 16000), torch.tensor([16000, 8000, 16000])
    fbank = Kaldi(n_mels=80, window_type="hamming")
    for path in (first, single):
        got = load_model(path)(waves, lengths)
        for row, length in enumerate(lengths):
            want = expected(fbank, waves[row, :length].numpy())
            np.testing.assert_allclose(got[row], want, atol=1e-4)


def test_the_command_embeds_and_the_user_says_what_the_file_does_not(tmp_path, capsys):
    path = mean_of_frames(tmp_path / "m.onnx", told={"framework": "nemo"})
    audio = write_audio(tmp_path / "audio" / "a.wav", noise(1.0))
    write_audio(tmp_path / "audio" / "b.wav", noise(1.5, seed=1))
    words = ["embed", str(path), str(tmp_path / "audio"), "--out", str(tmp_path / "e.npz")]
    os.environ.pop("WORLD_SIZE", None)
    assert main(words) == 0  # by its names feats and embs it is wespeaker's
    renamed = onnx.load(str(path))
    renamed.graph.input[0].name = "x"
    for node in renamed.graph.node:
        node.input[:] = ["x" if name == "feats" else name for name in node.input]
    onnx.save(renamed, str(path))
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "does not say which features it takes (its metadata: framework 'nemo')" in said
    assert "--features kaldi" in said
    words += ["--features", "{name: kaldi, window_type: povey}", "--jobs", "2"]
    assert main(words) == 0
    ids, vectors = read_vectors(tmp_path / "e.npz")
    assert ids.tolist() == ["a.wav", "b.wav"]
    wave = speechssl.audio.reading.read(str(audio), 16000, 0.0, None)
    np.testing.assert_allclose(vectors[0], expected(Kaldi(n_mels=80), wave), atol=1e-4)
    assert main([*words[:-4], "--features", "[]"]) == 2
    assert main([*words[:-4], "--features", "{name: kaldi, n_mels: 40}"]) == 2
    assert "n_mels: 80" in capsys.readouterr().err


def test_it_cannot_be_trained_exported_or_saved(tmp_path, capsys):
    path = mean_of_frames(tmp_path / "m.onnx")
    with pytest.raises(UserError, match="is ONNX, a program"):
        Model.load(path)
    with pytest.raises(UserError, match="not saved as a model folder"):
        speechssl.load(path, "cpu").save_pretrained(tmp_path / "copy")
    assert main(["export", str(path), "--to", "onnx", "--out", str(tmp_path / "x")]) == 2
    assert "is ONNX, a program" in capsys.readouterr().err
    with pytest.raises(UserError, match="is for ONNX files"):
        speechssl.load("small", features="kaldi")


def identity(path, nodes, initializers=(), **options):
    """A graph that ends in `embs`, from `feats`."""
    return save(
        path, nodes, {"feats": ["B", "T", 80]}, {"embs": ["B", 80]}, initializers, **options
    )


def constant(name, values):
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


def external(path):
    weight = onnx.numpy_helper.from_array(np.zeros((80, 80), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return identity(path, [helper.make_node("MatMul", ["feats", "w"], ["embs"])], [weight])


def external_in_attribute(path):
    weight = onnx.numpy_helper.from_array(np.zeros((80, 80), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../secret"
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("MatMul", ["feats", "w"], ["embs"]),
    ]
    return identity(path, nodes)


def custom(path):
    node = helper.make_node("Evil", ["feats"], ["embs"], domain="evil.ops")
    return identity(path, [node], domains=("", "evil.ops"))


def custom_inside(path):
    kind = onnx.TensorProto.FLOAT
    inner = helper.make_graph(
        [helper.make_node("Evil", ["feats"], ["y"], domain="evil.ops")],
        "inner", [], [helper.make_tensor_value_info("y", kind, None)],
    )  # fmt: skip
    yes = helper.make_tensor("yes", onnx.TensorProto.BOOL, [1], [True])
    node = helper.make_node("If", ["yes"], ["embs"], then_branch=inner, else_branch=inner)
    return identity(path, [node], [yes], domains=("", "evil.ops"))


def endless(path):
    kind = onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"])],
        "body",
        [
            helper.make_tensor_value_info(n, t, [])
            for n, t in (("i", kind.INT64), ("go", kind.BOOL))
        ],
        [helper.make_tensor_value_info("again", kind.BOOL, [])],
    )
    nodes = [
        helper.make_node("Loop", ["", "yes"], [], body=body),
        helper.make_node("Identity", ["feats"], ["embs"]),
    ]
    return identity(path, nodes, [helper.make_tensor("yes", kind.BOOL, [], [True])])


def huge(path):
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["w"]),
        helper.make_node("MatMul", ["feats", "w"], ["embs"]),
    ]
    return identity(path, nodes, [constant("shape", [80, 10**11])])


def huge_by_numbers(path):
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[80, 10**11]),
        helper.make_node("ConstantOfShape", ["shape"], ["w"]),
        helper.make_node("MatMul", ["feats", "w"], ["embs"]),
    ]
    return identity(path, nodes)


def doubling(path):
    """40 functions, each of which calls the one before twice: a file of 5 kB, 10^12 operators."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(40):
        name, domain = (f"F{level - 1}", "own") if level else ("Relu", "")
        nodes = [
            helper.make_node(name, ["x"], ["y"], domain=domain),
            helper.make_node(name, ["y"], ["z"], domain=domain),
        ]
        functions.append(helper.make_function("own", f"F{level}", ["x"], ["z"], nodes, opsets))
    node = helper.make_node("F39", ["feats"], ["embs"], domain="own")
    return identity(path, [node], functions=functions, domains=("", "own"))


def recursive(path):
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    inner = helper.make_node("F", ["x"], ["y"], domain="own")
    function = helper.make_function("own", "F", ["x"], ["y"], [inner], opsets)
    node = helper.make_node("F", ["feats"], ["embs"], domain="own")
    return identity(path, [node], functions=[function], domains=("", "own"))


def fast_rate(path):
    return mean_of_frames(path, told={"framework": "wespeaker", "sample_rate": "9999999999"})


def claimed(path):
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[80, 10**9])
    return identity(path, [helper.make_node("MatMul", ["feats", "w"], ["embs"])], [weight])


def two_inputs(path):
    node = helper.make_node("Add", ["feats", "other"], ["embs"])
    axes = ["B", "T", 80]
    return save(path, [node], {"feats": axes, "other": axes}, {"embs": axes})


def rubbish(path):
    path.write_bytes(b"\x08\x07rubbish that is no protobuf \xff\xff\xff")
    return path


def outside_code(path):
    told = {"speechssl_features": '{"name": "os:system"}'}
    return mean_of_frames(path, told=told)


def bad_metadata(path):
    return mean_of_frames(path, told={"speechssl_features": "{" * 5000})


@pytest.mark.parametrize(
    "make, reason",
    [
        (external, "keeps weights in another file"),
        (external_in_attribute, "keeps weights in another file"),
        (custom, "evil.ops::Evil"),
        (custom_inside, "evil.ops::Evil"),
        (endless, "may never end"),
        (huge, "makes a tensor of"),
        (huge_by_numbers, "makes a tensor of"),
        (doubling, "more than 200000 operators"),
        (recursive, "call themselves"),
        (fast_rate, "sample_rate"),
        (claimed, "more numbers than the file is long"),
        (two_inputs, "takes 2 inputs"),
        (rubbish, "no ONNX file"),
        (outside_code, "os"),
        (bad_metadata, "damaged|give --features"),
    ],
)
def test_what_is_not_safe_or_not_a_speaker_encoder_is_one_line(make, reason, tmp_path):
    path = make(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=reason) as error:
        speechssl.load(path, "cpu")
    assert "\n" not in str(error.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "m.onnx"
    with open(path, "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(UserError, match="larger than 1024 MiB"):
        speechssl.load(path, "cpu")


def test_a_graph_that_doubles_for_ever_is_one_line(tmp_path):
    """Two seconds of noise, doubled forty times, would be 10^16 bytes."""
    nodes = []
    last = "feats"
    for number in range(40):
        nodes.append(helper.make_node("Concat", [last, last], [f"y{number}"], axis=1))
        last = f"y{number}"
    axis = constant("axis", [1])
    nodes.append(helper.make_node("ReduceMax", [last, "axis"], ["embs"], keepdims=0))
    path = identity(tmp_path / "m.onnx", nodes, [axis], told={"framework": "wespeaker"})
    script = (
        "import resource, sys, speechssl.embed.onnx as one\n"
        "from speechssl.cli import main\n"
        "one.MEMORY_SHARE = 1e-4\n"
        "resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    write_audio(tmp_path / "a.wav", noise(1.0))
    words = ["embed", str(path), str(tmp_path / "a.wav"), "--out", str(tmp_path / "e.npz")]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2, done.stderr
    assert "does not run" in done.stderr and done.stderr.count("\n") == 1


def test_an_actor_of_ray_embeds_as_one_process(tmp_path, monkeypatch):
    """The graph goes to the workers as a file, with what the user said of its features."""
    from speechssl.data.manifest import Utterance
    from speechssl.embed import on_ray
    from speechssl.embed.corpus import _files_of
    from speechssl.embed.embedder import Embedder
    from speechssl.embed.settings import EmbedSettings

    monkeypatch.setattr(on_ray, "_fetched", lambda reference: reference)
    graph = mean_of_frames(tmp_path / "mean.onnx")
    sound = write_audio(tmp_path / "a.wav", noise(1.0))
    features = "{name: kaldi, n_mels: 80}"
    embedder = Embedder.from_pretrained(graph, "cpu", features=features)
    files = _files_of(embedder)
    assert list(files) == ["model.onnx"]
    settings = EmbedSettings(features=features)
    actor = on_ray.ChunkEmbedder(files, str(tmp_path / "e"), settings, np.zeros(0, np.uint64), 1)
    report = actor.embed([Utterance("a", str(sound))])
    assert (report["written"], report["failed"]) == (1, [])
    _, vectors = read_vectors(tmp_path / "e")
    np.testing.assert_allclose(vectors[0], embedder.embed(str(sound)), rtol=1e-5, atol=1e-5)
