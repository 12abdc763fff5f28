"""Model: features and encoder together, and the folder they are kept in."""

import pytest
import torch

from speechssl import config
from speechssl.errors import UserError
from speechssl.interfaces import FrontEnd
from speechssl.model import Model

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
    assert model.sample_rate == 16000
    assert model(torch.randn(3, 16000)).shape == (3, model.dim)


def test_the_settings_that_were_given_are_kept_and_the_rest_are_defaults():
    model = make(sample_rate=8000, f_max=3800.0, n_mels=40)
    assert model.sample_rate == 8000
    assert model.settings["features"]["n_mels"] == 40
    assert model.settings["features"]["frame_shift"] == 0.010
    assert model.settings["encoder"]["width"] == 32


@pytest.mark.parametrize("encoder", ENCODERS)
def test_save_and_load_give_the_same_model(encoder, tmp_path):
    model = make(encoder, n_mels=40)
    waves, lengths = torch.randn(2, 12000), torch.tensor([12000, 7000])
    model.save(tmp_path / "model")
    torch.manual_seed(1)
    again = Model.load(tmp_path / "model")
    assert again.settings == model.settings
    assert again.about == {"method": "none", "step": 7}
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(waves, lengths), model(waves, lengths))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.yaml",
        "weights.safetensors",
    ]


def test_load_finds_the_model_of_a_run_folder(tmp_path):
    make().save(tmp_path / "model")
    assert Model.load(tmp_path).dim == 24


def test_load_says_that_there_is_no_model(tmp_path):
    with pytest.raises(UserError, match="holds no"):
        Model.load(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder;"):
        Model.load(tmp_path / "nowhere")


def test_a_folder_of_an_onnx_file_names_the_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="did you mean '.*model.onnx'"):
        Model.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("smal", "did you mean 'small'"),
        ("mfc", "did you mean 'mfcc'"),
        ("microsoft/wavlm-base", "did you mean 'hub:microsoft/wavlm-base'"),
    ],
)
def test_a_name_that_is_nearly_one_gets_a_hint(name, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=meant):
        Model.load(name)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("snapshots/step-00000250.pt", "speechssl average .* --last 1 --until 250 --out DIR"),
        ("last.pt", "give its folder"),
    ],
)
def test_load_says_how_to_make_a_model_of_a_state(tmp_path, name, remedy):
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "log.jsonl").touch()
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=remedy):
        Model.load(tmp_path / name)


def test_load_refuses_weights_of_another_encoder(tmp_path):
    make("ecapa").save(tmp_path / "a")
    make("resnet").save(tmp_path / "b")
    (tmp_path / "b" / "weights.safetensors").replace(tmp_path / "a" / "weights.safetensors")
    with pytest.raises(UserError, match="cannot be read|does not fit"):
        Model.load(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_load_refuses_a_damaged_file(tmp_path, content):
    make().save(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read|does not fit"):
        Model.load(tmp_path)


def test_an_unknown_setting_is_refused_with_the_nearest_spelling():
    with pytest.raises(UserError, match="widht.*width"):
        Model({}, {"name": "ecapa", "widht": 32})
    with pytest.raises(UserError, match="mel.*n_mels"):
        Model({"n_mel": 40}, {"name": "ecapa"})


def test_a_setting_under_its_old_name_is_refused_with_the_new_one():
    with pytest.raises(UserError, match="features.mels is called features.n_mels now"):
        Model({"mels": 40}, {"name": "ecapa"})


OLD_FEATURES = {
    "rate": 8000,
    "window": 0.02,
    "hop": 0.008,
    "mels": 24,
    "low": 40.0,
    "high": 3800.0,
    "normalise": "sliding",
    "context": 50,
    "shape": "povey",
    "preemphasis": 0.97,
    "floor": 1e-6,
}
"""Section `features` as it was saved before front ends had names."""


def test_a_model_folder_of_before_front_ends_had_names_is_loaded(tmp_path):
    model = make(
        sample_rate=8000,
        frame_length=0.02,
        frame_shift=0.008,
        n_mels=24,
        f_min=40.0,
        f_max=3800.0,
        normalise="sliding",
        context=50,
        window_type="povey",
        preemphasis=0.97,
        floor=1e-6,
    )
    model.save(tmp_path)
    written = config.read(tmp_path / "config.yaml")
    config.write({**written, "features": OLD_FEATURES}, tmp_path / "config.yaml")
    again = Model.load(tmp_path)
    assert again.settings == model.settings
    waves = torch.randn(2, 9000)
    assert torch.equal(again(waves), model(waves))


def test_a_front_end_of_another_module_is_built_by_its_name():
    model = Model({"name": f"{__name__}:Squares", "sample_rate": 8000}, ENCODERS["ecapa"])
    assert model.settings["features"] == {"name": f"{__name__}:Squares", "sample_rate": 8000}
    assert model.sample_rate == 8000
    assert model(torch.randn(2, 4000)).shape == (2, model.dim)


class Squares(FrontEnd):
    """Squared samples, 4 to a frame: a front end without anything of log-mel."""

    def __init__(self, *, sample_rate: int = 16000) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.dim = 4
        self.frames_per_second = sample_rate / 4

    def forward(self, waves, lengths=None):
        frames = waves.unfold(1, 4, 4).square()
        return frames, torch.full((len(waves),), frames.shape[1])


def test_a_folder_of_before_with_pickled_weights_still_loads(tmp_path):
    model = make()
    model.save(tmp_path / "new")
    old = tmp_path / "old"
    old.mkdir()
    torch.save(model.encoder.state_dict(), old / "weights.pt")
    (old / "config.yaml").write_text(
        (tmp_path / "new" / "config.yaml").read_text().replace("format: 1\n", "")
    )
    waves = torch.randn(2, 8000)
    with torch.no_grad():
        assert torch.equal(Model.load(old)(waves), model(waves))


def test_a_folder_of_a_later_version_is_refused(tmp_path):
    make().save(tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("format: 1", "format: 2"))
    with pytest.raises(UserError, match="format 2, and this version reads up to 1"):
        Model.load(tmp_path)


def test_code_outside_the_package_needs_the_users_word(tmp_path, monkeypatch):
    (tmp_path / "outside_encoder.py").write_text(
        "from speechssl.encoders.ecapa import ECAPA\nclass Mine(ECAPA):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"name": "outside_encoder:Mine", "width": 32, "embedding_dim": 24}
    Model({}, settings).save(tmp_path / "model")  # what a user writes himself is built
    with pytest.raises(UserError, match="--allow-code outside_encoder"):
        Model.load(tmp_path / "model")
    with pytest.raises(UserError, match="names code outside speechssl"):
        Model.load(tmp_path / "model", allow_code=["outside"])
    loaded = Model.load(tmp_path / "model", allow_code=["outside_encoder"])
    assert type(loaded.encoder).__name__ == "Mine"
