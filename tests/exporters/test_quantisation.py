"""ONNX files in 8 bits: which products, how close, what is kept, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import ECAPA, RATE, make_model, noise, write_audio

from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.exporters.export import export
from speechssl.exporters.quantisation import calibration_waves, quantise

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def write_products(path: Path, channels: int) -> None:
    """An ONNX file: the first samples of each wave, times a matrix, times another."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    first = rng.normal(size=(256, channels)).astype("f4")
    second = rng.normal(size=(channels, 16)).astype("f4")
    constants = {"first": first, "second": second, "from": np.array([0]), "to": np.array([256])}
    constants["axis"] = np.array([1])
    nodes = [
        helper.make_node("Slice", ["waves", "from", "to", "axis"], ["head"], name="slice"),
        helper.make_node("MatMul", ["head", "first"], ["middle"], name="large"),
        helper.make_node("MatMul", ["middle", "second"], ["embeddings"], name="small"),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("waves", TensorProto.FLOAT, ["batch", "samples"])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    entry = model.metadata_props.add()
    entry.key, entry.value = "speechssl_features", "{}"
    onnx.save(model, str(path))


def waves(count: int = 8) -> list[np.ndarray]:
    return [noise(0.5, seed=number)[None].astype("f4") for number in range(count)]


def run(path: Path, wave: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"waves": wave})[0]


def test_large_products_are_in_8_bits_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_products(path, 256)
    given = waves()
    before = [run(path, wave) for wave in given]
    said = quantise(path, given)
    assert "1 products in 8 bits" in said
    held = onnx.load(str(path))
    kinds = {weight.name: weight.data_type for weight in held.graph.initializer}
    assert kinds["second"] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.INT8 in kinds.values() and "first" not in kinds
    assert [entry.key for entry in held.metadata_props] == ["speechssl_features"]
    for wave, expected in zip(given, before, strict=True):
        got = run(path, wave)[0]
        cosine = got @ expected[0] / np.linalg.norm(got) / np.linalg.norm(expected[0])
        assert 0.999 < cosine < 1 - 1e-9  # close, and not the same
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_without_a_large_product_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_products(path, 255)
    content = path.read_bytes()
    with pytest.raises(UserError, match="no product of 256 or more channels"):
        quantise(path, waves())
    assert path.read_bytes() == content


def test_what_8_bits_cannot_hold_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    """Calibrated on whispers, compared on shouts: the inputs are clipped."""
    path = tmp_path / "model.onnx"
    write_products(path, 256)
    content = path.read_bytes()
    tried = waves()
    for number in range(1, len(tried), 2):
        tried[number] = np.where(np.arange(8000) % 7 == 0, 1e4, 1.0) * tried[number]
        tried[number] = tried[number].astype("f4")
    with pytest.raises(UserError, match="smallest cosine"):
        quantise(path, tried)
    assert path.read_bytes() == content


def test_recordings_to_calibrate_on(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1))
    write_audio(tmp_path / "b.wav", noise(30, seed=1))
    write_audio(tmp_path / "short.wav", noise(0.06))
    (tmp_path / "broken.wav").write_text("no audio")
    found = [
        Utterance(name, str(tmp_path / f"{name}.wav")) for name in ("a", "broken", "short", "b")
    ]
    lengths = [wave.shape for wave in calibration_waves(found, RATE)]
    assert lengths == [(1, RATE), (1, 10 * RATE)]
    with pytest.raises(UserError, match="1 of 3 recordings to calibrate on"):
        calibration_waves(found[:3], RATE)


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("torchscript", {"quantise": "int8", "calibrate": ["x"]}, "goes with --to onnx"),
        ("onnx", {"quantise": "int8"}, "needs --calibrate"),
        ("onnx", {"calibrate": ["x"]}, "goes with --quantise int8"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    to: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    make_model(ECAPA).save(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        export(tmp_path / "model", to, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_ecapa_of_256_channels_is_exported_in_8_bits(tmp_path: Path) -> None:
    import speechssl

    encoder = {**ECAPA, "width": 256, "kernel_sizes": [5, 3, 1], "dilations": [1, 2, 1]}
    make_model(encoder).save(tmp_path / "model")
    for number in range(6):
        write_audio(tmp_path / "audio" / f"{number}.wav", noise(2, seed=number))
    out = export(
        tmp_path / "model",
        "onnx",
        tmp_path / "out",
        quantise="int8",
        calibrate=[tmp_path / "audio"],
    )
    plain = speechssl.load(tmp_path / "model").embed(tmp_path / "audio" / "1.wav")
    coded = speechssl.load(out / "model.onnx").embed(tmp_path / "audio" / "1.wav")
    assert 0.99 < plain @ coded / np.linalg.norm(plain) / np.linalg.norm(coded) < 1 - 1e-7
