"""Every front end keeps the contract of `interfaces.FrontEnd`, and so does the example of the README."""

import re
from pathlib import Path

import pytest
import torch

import speechssl
from speechssl import parts
from speechssl.interfaces import FrontEnd
from speechssl.model import Model

README = Path(speechssl.__file__).parent / "features" / "README.md"
NAMES = [*parts.names("features"), "front_end_example:PART"]
ENCODER = {"name": "ecapa", "width": 16, "scale": 2}


@pytest.fixture(autouse=True)
def example(tmp_path, monkeypatch):
    """The README's example as a module that can be imported."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    (tmp_path / "front_end_example.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(params=NAMES)
def front_end(request):
    return parts.build("features", request.param)


def noise(rows, samples, seed=0):
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def test_it_says_what_it_takes_and_gives(front_end):
    assert isinstance(front_end, FrontEnd)
    second = front_end.sample_rate
    features, frames = front_end(noise(2, 4 * second))
    assert features.shape == (2, features.shape[1], front_end.dim)
    assert features.shape[1] == pytest.approx(4 * front_end.frames_per_second, abs=5)
    assert features.dtype == torch.float32 and features.isfinite().all()
    assert frames.dtype == torch.int64 and frames.tolist() == [features.shape[1]] * 2


def test_a_padded_row_is_what_it_is_alone(front_end):
    second = front_end.sample_rate
    sizes = [second, second // 2, second // 3, 777]
    waves = noise(len(sizes), second)  # what lies beyond the lengths is as loud as the rest
    features, frames = front_end(waves, torch.tensor(sizes))
    for row, size in enumerate(sizes):
        alone, count = front_end(waves[row : row + 1, :size])
        assert frames[row] == count[0] == alone.shape[1]
        torch.testing.assert_close(features[row, : frames[row]], alone[0], atol=1e-5, rtol=0)
        assert (features[row, frames[row] :] == 0).all()


def test_silence_is_finite_and_autocast_changes_nothing(front_end):
    waves = noise(1, 8000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = front_end(waves)
    assert torch.equal(features, front_end(waves)[0])
    assert front_end(torch.zeros(1, 8000))[0].isfinite().all()


def test_the_settings_are_all_that_a_model_folder_needs(front_end):
    assert not front_end.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_it_is_saved_and_loaded(name, tmp_path):
    model = Model({"name": name}, ENCODER).eval()
    model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model", allow_code=["front_end_example"])
    waves = noise(2, 16000)
    assert again.settings["features"]["name"] == name
    assert again.sample_rate == model.front_end.sample_rate
    assert torch.equal(again(waves), model(waves))
