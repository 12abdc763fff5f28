"""Every Python example of a README runs: those of parts in their folders' tests, the others here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import RATE, ROOT, make_model, noise, readme_code, write_audio


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
