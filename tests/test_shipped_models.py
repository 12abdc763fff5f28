"""The models that come with the package: found by name, small, and honest about their data."""

from pathlib import Path

import numpy as np
import pytest
from builders import noise

import speechssl
from speechssl.cli import main
from speechssl.files import SHIPPED_MODELS, model_folder, shipped_models
from speechssl.weights import shapes

MAX_BYTES = 5_000_000
NAMES = list(shipped_models())


def test_there_is_a_small_one() -> None:
    assert "small" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_its_folder_and_a_path_wins(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_folder(name).path == SHIPPED_MODELS / name
    (tmp_path / name).mkdir()
    assert model_folder(name).path == Path(name)
    assert model_folder(f"../{tmp_path.name}/{name}").path != SHIPPED_MODELS / name


@pytest.mark.parametrize("name", NAMES)
def test_it_is_at_most_five_megabytes_and_names_no_machine(name: str) -> None:
    files = model_folder(name)
    held = sum(path.stat().st_size for path in files.path.iterdir())
    assert held <= MAX_BYTES
    assert shapes(files.weights)
    card = (files.path / "README.md").read_text(encoding="utf-8")
    config = files.config.read_text(encoding="utf-8")
    for text in (card, config):
        assert "/work" not in text and "/home" not in text and "/root" not in text
    for word in ("licence", "EER", "threshold", "recipes/small/run.sh", "telephone"):
        assert word in card, word


@pytest.mark.parametrize("name", NAMES)
def test_it_embeds_from_python_and_from_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    monkeypatch.chdir(tmp_path)
    wave = noise(2.0)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    vector = speechssl.load(name).embed(wave, sample_rate=16000)
    assert main(["embed", name, "a.wav", "--out", "a.npz"]) == 0
    saved = np.load("a.npz")["embeddings"]
    assert saved.shape == (1, len(vector)) and np.isfinite(saved).all()
    np.testing.assert_allclose(saved[0], vector, rtol=1e-4, atol=1e-5)


def test_they_are_listed_with_their_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models"]) == 0
    printed = capsys.readouterr().out
    for name, description in shipped_models().items():
        assert name in printed and description in printed
    assert main(["list", "models", "small"]) == 0
    assert "recipes/small/run.sh" in capsys.readouterr().out
    assert main(["list", "models", "large"]) == 2
    assert "no model 'large'" in capsys.readouterr().err
