"""3D-Speaker's files of weights: encoder and sizes are found in names and shapes."""

import pytest
import torch
from builders import CAMPPLUS, ECAPA, ERES2NETV2, RESNET, noises, settle
from torchaudio.compliance import kaldi

from speechssl import parts
from speechssl.errors import UserError
from speechssl.model import Model

FAMILIES = {
    "campplus": CAMPPLUS,
    "eres2netv2": ERES2NETV2,
    "w24s4ep4": {**ERES2NETV2, "width": 64, "base_width": 24, "scale": 4, "expansion": 4},
    "ecapa": ECAPA,
}


def make(settings):
    torch.manual_seed(0)
    encoder = parts.build("encoders", settings, 24)
    settle(encoder)
    return encoder.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_sizes_are_found_and_the_features_are_kaldis(name, tmp_path):
    encoder = make(FAMILIES[name])
    torch.save(encoder.state_dict(), tmp_path / "weights.ckpt")
    model = Model.load(tmp_path / "weights.ckpt")
    wave = noises(1, 8000)
    # 3D-Speaker takes samples in -1..1 as they are
    mat = kaldi.fbank(wave, num_mel_bins=24, dither=0.0)
    with torch.no_grad():
        want = encoder((mat - mat.mean(0))[None])
        torch.testing.assert_close(model(wave), want, atol=1e-4, rtol=1e-3)


def test_a_folder_with_its_configuration(tmp_path):
    torch.save(make(CAMPPLUS).state_dict(), tmp_path / "campplus_cn_common.bin")
    with pytest.raises(UserError, match="holds no config.yaml"):
        Model.load(tmp_path)
    (tmp_path / "configuration.json").write_text("{}")
    assert Model.load(tmp_path).dim == 12
    (tmp_path / "another.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="several files of weights"):
        Model.load(tmp_path)


def test_other_weights_are_one_line(tmp_path):
    torch.save(make(RESNET).state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(UserError, match="no encoder that is read"):
        Model.load(tmp_path / "resnet.pt")
    torch.save({"fuse34.local_att.0.weight": torch.zeros(1)}, tmp_path / "lie.pt")
    with pytest.raises(UserError, match="damaged"):
        Model.load(tmp_path / "lie.pt")
    state = make(ECAPA).state_dict()
    state["blocks.1.se_block.conv1.conv.weight"] = torch.zeros(5, 16, 1)
    torch.save(state, tmp_path / "mixed.pt")
    with pytest.raises(UserError, match="does not fit"):
        Model.load(tmp_path / "mixed.pt")
