"""Exports give the embeddings that `Embedder` gives, at other lengths and batches than those they
saw.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import ECAPA, RATE, RESNET, XVECTOR, make_model, noises, readme_code

import speechssl
from speechssl.__main__ import main
from speechssl.errors import UserError
from speechssl.exporters.export import export
from speechssl.exporters.waveforms import Spectra, compare
from speechssl.features.logmel import LogMel
from speechssl.model import Model

SMALL = {"kernel_sizes": [5, 3, 1], "dilations": [1, 2, 1]}
MODELS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "ecapa": ({}, ECAPA | SMALL),
    "sliding": (
        {"normalise": "sliding", "n_mels": 40, "preemphasis": 0.97, "window_type": "povey"},
        ECAPA | SMALL,
    ),
    "level": ({"normalise": "level", "sample_rate": 8000, "f_max": 3800.0}, ECAPA | SMALL),
    "none": ({"normalise": "none"}, ECAPA | SMALL | {"pooling": "statistics"}),
    "resnet": ({"n_mels": 40}, RESNET | {"attention_channels": 128}),
    "xvector": ({}, XVECTOR),
    "light": (
        {"n_mels": 40},
        {
            "name": "resnet",
            "width": 4,
            "block_type": "basic",
            "se_stages": 0,
            "pooling": "statistics",
        },
    ),
}


SLOW = ("ecapa", "sliding", "light")  # the exporter takes 10 s of a core and more for each


def make(name: str, folder: Path) -> Path:
    features, encoder = MODELS[name]
    model = make_model(encoder, {"method": "dino", "step": 70}, **features)
    model.save(folder / name)
    return folder / name


def agrees(model: Path, run: object) -> None:
    """`run` of waveforms equals the embedder's array path."""
    embedder = speechssl.load(model)
    rate = embedder.rate
    for seconds, batch in ((0.8, 1), (1.37, 4), (6.0, 2)):
        x = noises(batch, round(seconds * rate), seed=1)
        expected = np.stack([embedder.embed(wave.numpy(), rate) for wave in x])
        np.testing.assert_allclose(run(x), expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(
    "settings",
    [{}, {"preemphasis": 0.97, "window_type": "povey"}, {"frame_length": 0.02, "n_mels": 23}],
)
def test_spectra_by_products_are_those_by_fft(settings: dict[str, object]) -> None:
    features = LogMel(**settings, normalise="none")
    x = noises(2, RATE, seed=1)
    assert torch.allclose(
        Spectra(features)(x), features(x)[0], atol=1e-3
    )  # of log energies down to -13


@pytest.mark.parametrize("name", MODELS)
def test_torchscript(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = make(name, tmp_path), tmp_path / "script"
    assert main(["export", str(model), "--to", "torchscript", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert (
        captured.out == f"{out}\n"
        and "embeddings equal the model's, largest difference" in captured.err
    )
    script = torch.jit.load(str(out / "model.pt"))
    agrees(model, lambda x: script(x).detach())


def test_torchscript_needs_nothing_of_this_package(tmp_path: Path) -> None:
    export(make("ecapa", tmp_path), "torchscript", tmp_path / "out")
    code = (
        "import sys, torch; model = torch.jit.load(sys.argv[1]);"
        "print(tuple(model(torch.randn(3, 9000)).shape));"
        "assert not any(name.startswith('speechssl') for name in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out/model.pt")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "(3, 12)\n"


@pytest.mark.parametrize(
    "name", ["xvector", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def test_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    model = make(name, tmp_path)
    export(model, "onnx", tmp_path / "out")
    session = runtime.InferenceSession(
        str(tmp_path / "out/model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [node.name for node in session.get_inputs()] == ["waves"]
    assert [node.name for node in session.get_outputs()] == ["embeddings"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    agrees(model, lambda x: session.run(None, {"waves": x.numpy()})[0])


def test_onnx_without_its_library_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript; pip install 'speechssl\[export\]'"):
        export(make("ecapa", tmp_path), "onnx", tmp_path / "out")


@pytest.mark.parametrize("name", ["ecapa", "sliding", "level", "resnet"])
def test_speechbrain(name: str, tmp_path: Path) -> None:
    inference = pytest.importorskip("speechbrain.inference.classifiers")
    model, out = make(name, tmp_path), tmp_path / "out: a #1"
    export(model, "speechbrain", out)
    files = {"hyperparams.yaml", "embedding_model.ckpt", "features.pt", "normalise.pt"}
    assert {path.name for path in out.iterdir()} == files
    moved = out.rename(tmp_path / "moved")
    overrides = {"pretrained_path": str(moved)}
    loaded = inference.EncoderClassifier.from_hparams(
        source=str(moved), savedir=str(tmp_path / "cache"), overrides=overrides
    )
    assert type(loaded.mods.embedding_model).__module__.startswith("speechbrain.lobes")
    agrees(model, lambda x: loaded.encode_batch(x).flatten(1))
    padded = noises(
        2, 2 * RATE, seed=1
    )  # lengths come as shares, and frames are rounded: close, not equal
    lengths = torch.tensor([32000, 19200])
    ours = Model.load(model)(padded, lengths).detach()
    theirs = loaded.encode_batch(padded, lengths / 32000).flatten(1)
    assert torch.cosine_similarity(ours, theirs).min() > 0.99


def test_speechbrain_refuses_what_it_has_not(tmp_path: Path) -> None:
    for name in ("light", "none"):
        with pytest.raises(
            UserError, match=r"^export: SpeechBrain has no counterpart of this [^\n]*$"
        ):
            export(make(name, tmp_path), "speechbrain", tmp_path / "out")


def test_huggingface(tmp_path: Path) -> None:
    model, out = make("resnet", tmp_path), tmp_path / "my-model"
    export(model, "huggingface", out)
    weights = "model.safetensors"
    assert {path.name for path in out.iterdir()} == {"config.json", weights, "README.md"}
    settings = json.loads((out / "config.json").read_text())
    assert settings["encoder"]["blocks"] == [1, 1, 1, 1] and settings["about"]["step"] == 70
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: speechssl\nlicense: ") and '* method: "dino"' in card
    ours, again = Model.load(model), Model.load(out)
    assert again.settings == ours.settings and again.about == ours.about
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    (out / weights).rename(tmp_path / weights)
    torch.save(ours.encoder.state_dict(), out / "pytorch_model.bin")  # as older versions wrote it
    assert Model.load(out).settings == ours.settings
    (out / weights).write_bytes(b"nothing")
    with pytest.raises(UserError, match=rf"{weights}: cannot be read"):
        Model.load(out)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make("ecapa", tmp_path)
    for arguments, words in (
        (
            [str(model), "--to", "tflite", "--out", str(tmp_path / "out")],
            "known: huggingface, onnx, sherpa, speechbrain",
        ),
        ([str(model), "--to", "onnx", "--out", str(model)], "is the model itself"),
        ([str(model), "--to", "onnx", "--out", str(model / "weights.safetensors")], "is a file"),
        (
            [str(tmp_path / "none"), "--to", "onnx", "--out", str(tmp_path / "out")],
            "no such file or folder",
        ),
    ):
        assert main(["export", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert not (tmp_path / "out").exists()


def test_the_format_in_the_readme_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = readme_code("exporters")
    (tmp_path / "readme_format.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    out = export(make("ecapa", tmp_path), "readme_format:PART", tmp_path / "out")
    assert "embeddings equal the model's" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"weights.npz", "settings.json"}


def test_the_model_in_a_run_folder_is_not_written_over(tmp_path: Path) -> None:
    make("ecapa", tmp_path).rename(tmp_path / "model")
    with pytest.raises(UserError, match="is the model itself"):
        export(tmp_path, "torchscript", tmp_path / "model")


def test_an_export_that_differs_is_refused(tmp_path: Path) -> None:
    model = Model.load(make("ecapa", tmp_path))
    with pytest.raises(UserError, match="differ from the model's by"):
        compare(model, lambda x: model(x) * 1.001, "it")
