"""Training that goes on from another program's model (`train.init`), and the command that embeds with it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import CAMPPLUS, noise, settle, write_audio

from speechssl import parts
from speechssl.errors import UserError
from speechssl.model import Model
from speechssl.pseudolabel.settings import model_overrides
from speechssl.train.loop import train


@pytest.fixture
def released(tmp_path):
    """A file of weights as 3D-Speaker releases them."""
    torch.manual_seed(0)
    encoder = parts.build("encoders", CAMPPLUS, 24)
    settle(encoder)
    torch.save(encoder.state_dict(), tmp_path / "campplus.bin")
    return tmp_path / "campplus.bin"


def test_training_begins_with_its_weights(released, configuration, tmp_path):
    model = Model.load(released)
    words = [f"train.init={json.dumps(str(released))}", "train.steps=1", *model_overrides(model)]
    out = train(str(configuration), words, out=tmp_path / "run", device="cpu")
    untrained = Model.load(out / "untrained")
    assert untrained.settings == model.settings
    state = untrained.encoder.state_dict()
    assert all(
        torch.equal(state[name], value) for name, value in model.encoder.state_dict().items()
    )
    assert "not known" in (out / "about.yaml").read_text()  # its labels


def test_another_configuration_is_told_where_to_find_the_right_one(
    released, configuration, tmp_path
):
    words = [f"train.init={json.dumps(str(released))}"]
    with pytest.raises(UserError, match="save_pretrained") as error:
        train(str(configuration), words, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)


def test_the_command_embeds_with_it(released, tmp_path):
    write_audio(tmp_path / "a.wav", noise(1.0))
    words = ["embed", str(released), str(tmp_path / "a.wav"), "--out", str(tmp_path / "a.npz")]
    done = subprocess.run(
        [sys.executable, "-m", "speechssl", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "a.npz") as file:
        vectors = next(file[name] for name in file.files if file[name].dtype.kind == "f")
    wave = torch.from_numpy(noise(1.0))[None]
    with torch.no_grad():
        want = Model.load(released)(wave)[0].numpy()
    np.testing.assert_allclose(vectors.reshape(-1), want, atol=1e-3)
