"""Every Python example of a README runs: those of parts in their folders' tests, the others here."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import RATE, ROOT, make_model, noise, readme_code, write_audio
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import speechssl


def folders_with_examples() -> list[str]:
    """Return the folders of the package whose README holds Python."""
    package = ROOT / "speechssl"
    readmes = sorted(package.rglob("README.md"))
    folders = [path.parent.relative_to(package).as_posix() for path in readmes]
    return [folder for folder in folders if readme_code(folder)]


def test_every_readme_with_an_example_is_run_by_a_test() -> None:
    run = set()
    for path in (ROOT / "tests").rglob("*.py"):
        run.update(re.findall(r'readme_(?:code|part)\("([\w/]+)"\)', path.read_text("utf-8")))
    assert len(run) > 15
    assert set(folders_with_examples()) == run


def values(code: str) -> dict[str, Any]:
    """Run an example and return its variables."""
    variables: dict[str, Any] = {}
    exec(code, variables)
    return variables


def test_embed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_model("resnet", n_mels=40).save("exp/mine")
    (tmp_path / "AUDIO").mkdir()
    for name in ("a.flac", "b.flac", "AUDIO/c.flac"):
        write_audio(tmp_path / name, noise(1.5))
    stereo = np.random.default_rng(1).normal(0, 0.1, (13 * RATE, 2)).astype(np.float32)
    write_audio(tmp_path / "call.wav", stereo)
    (code,) = readme_code("embed")
    made = values(code)
    size = made["embedder"].dim
    assert made["vector"].shape == (size,) and made["matrix"].shape == (2, size)
    assert made["batch"].shape == (2, size) and -1 <= made["cosine"] <= 1
    assert list(made["paths"]) == ["a.flac", "b.flac"] and not made["failed"]
    assert made["summary"].embedded == 1 and (tmp_path / "mine.npz").is_file()


def from_python() -> str:
    """Return the block "From Python" of the README, as a reader would copy it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("### From Python\n")[2].partition("\n## ")[0]
    code = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    return textwrap.dedent(code)


def test_the_block_of_the_main_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = make_model("resnet", n_mels=40)
    model.save("exp/mine")
    write_audio(tmp_path / "a.flac", noise(1.5, seed=1))
    write_audio(tmp_path / "b.flac", noise(1.0, seed=2))
    write_audio(tmp_path / "talk.m4a", noise(6.0, seed=3), format="WAV")  # content decides
    uploaded: dict[str, Any] = {}

    def push(model: Any, repository: str, **options: Any) -> str:
        uploaded[repository] = options
        return f"hub:{repository}"

    monkeypatch.setattr("speechssl.embed.embedder.push", push)
    given: dict[str, Any] = {
        "samples": noise(0.5, rate=44100).reshape(-1, 1),
        "waveform": torch.from_numpy(noise(0.5))[None],
        "waves": torch.from_numpy(np.stack([noise(1.0, seed=4), noise(1.0, seed=5)])),
        "lengths": torch.tensor([RATE, RATE // 2]),
        "make_pipeline": make_pipeline,
        "LogisticRegression": LogisticRegression,
    }
    seen = given | {"vectors": []}
    for line in from_python().splitlines():
        exec(line, seen)
        if line.startswith("vector ="):
            seen["vectors"].append(seen["vector"])
        elif line.startswith("matrix ="):
            seen["of_list"] = seen["matrix"]
    size = seen["embedder"].dim
    assert [vector.shape for vector in seen["vectors"]] == [(size,)] * 3
    assert seen["of_list"].shape == seen["batch"].shape == (2, size)
    np.testing.assert_allclose(seen["of_list"][0], seen["vectors"][0], atol=1e-5)
    a, b = seen["of_list"] / np.linalg.norm(seen["of_list"], axis=1, keepdims=True)
    assert seen["cosine"] == pytest.approx(a @ b, abs=1e-5)
    assert seen["starts"].tolist() == [0.0, 1.5, 3.0]
    assert seen["matrix"].shape == (3, size)
    fitted = seen["pipeline"].fit(["a.flac", "b.flac"], ["one", "two"])
    assert fitted.predict(["b.flac", "a.flac"]).tolist() == ["two", "one"]
    copy = speechssl.Embedder.from_pretrained("copy", "cpu")
    np.testing.assert_array_equal(copy.embed("a.flac"), seen["vectors"][0])
    assert uploaded == {"owner/name": {"results": ["exp/mine/eval/trained/mine"], "private": False}}


def test_nn() -> None:
    (code,) = readme_code("nn")
    assert values(code)["pooled"].shape == (2, 256)


def test_losses() -> None:
    (code,) = readme_code("losses")
    hinge = values(code)["distance_hinge"]
    one = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    # The distances are 5 and 0: the mean of 5 - 1 and 0.
    assert hinge(one, torch.zeros(2, 2), 1.0).item() == 2.0


def test_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    entry, run = readme_code("evaluation")
    values(run)
    assert "eer" in capsys.readouterr().out
    from speechssl.evaluation.verification.measures import CurveMeasure

    variables: dict[str, Any] = {"CurveMeasure": CurveMeasure}
    exec(entry, variables)
    measure = variables["MEASURES"][-1]
    # Of the thresholds with at most 1 % false alarms, the best misses 30 %.
    rates = np.array([0.0, 0.01, 0.02]), np.array([0.5, 0.3, 0.1])
    assert measure.compute(*rates) == pytest.approx(30)
