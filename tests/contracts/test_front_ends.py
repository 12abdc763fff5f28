"""Every front end keeps the contract of `interfaces.FrontEnd`, and so does the example of the README."""

import builders
import pytest
import torch
from builders import DEVICE, ECAPA, on_device, readme_part

from speechssl import parts
from speechssl.config import schema
from speechssl.interfaces import FrontEnd
from speechssl.model import Model

NAMES = [*parts.names("features"), readme_part("features")]


@pytest.fixture(params=NAMES)
def front_end(request):
    return on_device(parts.build("features", request.param))


def noises(batch, samples):
    return on_device(builders.noises(batch, samples))


def test_it_says_what_it_takes_and_gives(front_end):
    assert isinstance(front_end, FrontEnd)
    second = front_end.sample_rate
    features, frames = front_end(noises(2, 4 * second))
    assert features.shape == (2, features.shape[1], front_end.dim)
    assert features.shape[1] == pytest.approx(4 * front_end.frames_per_second, abs=5)
    assert features.dtype == torch.float32 and features.isfinite().all()
    assert frames.dtype == torch.int64 and frames.tolist() == [features.shape[1]] * 2


def test_a_padded_row_is_what_it_is_alone(front_end):
    second = front_end.sample_rate
    sizes = [second, second // 2, second // 3, 777]
    waves = noises(len(sizes), second)  # what lies beyond the lengths is as loud as the rest
    features, frames = front_end(waves, on_device(torch.tensor(sizes)))
    for row, size in enumerate(sizes):
        alone, count = front_end(waves[row : row + 1, :size])
        assert frames[row] == count[0] == alone.shape[1]
        torch.testing.assert_close(features[row, : frames[row]], alone[0], atol=2e-5, rtol=0)
        assert (features[row, frames[row] :] == 0).all()


def test_silence_is_finite_and_autocast_changes_nothing(front_end):
    waves = noises(1, 8000)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        features, _ = front_end(waves)
    assert torch.equal(features, front_end(waves)[0])
    assert front_end(on_device(torch.zeros(1, 8000)))[0].isfinite().all()


def test_the_settings_are_all_that_a_model_folder_needs(front_end):
    assert not front_end.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_it_is_saved_and_loaded(name, tmp_path):
    model = on_device(Model({"name": name}, ECAPA)).eval()
    model.save(tmp_path / "model")
    again = on_device(Model.load(tmp_path / "model", allow_code=["features_example"]))
    waves = noises(2, 16000)
    assert again.settings["features"]["name"] == name
    assert again.sample_rate == model.front_end.sample_rate
    assert torch.equal(again(waves), model(waves))


def test_the_sample_rate_is_a_setting_and_a_second_has_as_many_frames_at_any(front_end):
    part = type(front_end)
    assert "sample_rate" in schema(part)
    for rate in (16000, 24000):
        other = on_device(part(sample_rate=rate))
        assert other.sample_rate == rate
        frames = other(noises(1, 3 * rate))[0].shape[1]
        assert frames == pytest.approx(3 * other.frames_per_second, abs=5)


def test_the_gradient_reaches_the_samples_that_count_and_no_others(front_end):
    second = front_end.sample_rate
    waves = noises(2, second).requires_grad_()
    features, frames = front_end(waves, on_device(torch.tensor([second, second // 2])))
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * on_device(weights)).sum().backward()
    assert waves.grad.isfinite().all()
    assert waves.grad[0].abs().sum() > 0
    beyond = second // 2 + second // 20  # a frame may reach over the end
    assert waves.grad[1, : second // 2].abs().sum() > 0
    assert waves.grad[1, beyond:].abs().max() == 0


def test_the_waves_are_left_as_they_were(front_end):
    waves = noises(2, 8000)
    before = waves.clone()
    front_end(waves, on_device(torch.tensor([8000, 5000])))
    assert torch.equal(waves, before)
