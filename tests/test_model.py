"""Model: features and encoder together, and the folder they are kept in."""

import pytest
import torch

from speechssl.errors import UserError
from speechssl.model import CONFIG, WEIGHTS, Model

ENCODERS = {
    "ecapa": {"name": "ecapa", "width": 32, "embedding_dim": 24},
    "resnet": {"name": "resnet", "width": 4},
}


def make(encoder: str = "ecapa", seed: int = 0, **features) -> Model:
    torch.manual_seed(seed)
    return Model(features, ENCODERS[encoder], {"method": "none", "step": 7}).eval()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_shape_follows_the_encoder(encoder):
    model = make(encoder)
    assert model.rate == 16000
    assert model(torch.randn(3, 16000)).shape == (3, model.dim)


def test_the_settings_that_were_given_are_kept_and_the_rest_are_defaults():
    model = make(rate=8000, high=3800.0, mels=40)
    assert model.rate == 8000
    assert model.settings["features"]["mels"] == 40
    assert model.settings["features"]["hop"] == 0.010
    assert model.settings["encoder"]["width"] == 32


@pytest.mark.parametrize("encoder", ENCODERS)
def test_save_and_load_give_the_same_model(encoder, tmp_path):
    model = make(encoder, mels=40)
    waves, lengths = torch.randn(2, 12000), torch.tensor([12000, 7000])
    model.save(tmp_path / "model")
    torch.manual_seed(1)
    again = Model.load(tmp_path / "model")
    assert again.settings == model.settings
    assert again.about == {"method": "none", "step": 7}
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(waves, lengths), model(waves, lengths))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [CONFIG, WEIGHTS]


def test_load_finds_the_model_of_a_run_folder(tmp_path):
    make().save(tmp_path / "model")
    assert Model.load(tmp_path).dim == 24


def test_load_says_that_there_is_no_model(tmp_path):
    with pytest.raises(UserError, match="holds no"):
        Model.load(tmp_path)
    with pytest.raises(UserError, match="holds no"):
        Model.load(tmp_path / "nowhere")


def test_load_refuses_weights_of_another_encoder(tmp_path):
    make("ecapa").save(tmp_path / "a")
    make("resnet").save(tmp_path / "b")
    (tmp_path / "b" / WEIGHTS).replace(tmp_path / "a" / WEIGHTS)
    with pytest.raises(UserError, match="cannot be loaded"):
        Model.load(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_load_refuses_a_damaged_file(tmp_path, content):
    make().save(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match="cannot be loaded"):
        Model.load(tmp_path)


def test_an_unknown_setting_is_refused_with_the_nearest_spelling():
    with pytest.raises(UserError, match="widht.*width"):
        Model({}, {"name": "ecapa", "widht": 32})
    with pytest.raises(UserError, match="mel.*mels"):
        Model({"mel": 40}, {"name": "ecapa"})
