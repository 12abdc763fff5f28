"""wespeaker's folders against its networks in plain torch, behind torchaudio's Kaldi features."""

import published
import pytest
import torch
import yaml
from builders import noises, settle
from torchaudio.compliance import kaldi

from speechssl.encoders.campplus import CAMPPlus
from speechssl.errors import UserError
from speechssl.model import Model

MELS = 24


def write(folder, name, module, arguments, **dataset):
    """A folder in wespeaker's layout, with the classifier that its checkpoints hold."""
    folder.mkdir(exist_ok=True)
    written = {
        "model": name,
        "model_args": {"feat_dim": MELS, "embed_dim": 12, **arguments},
        "dataset_args": {"fbank_args": {"num_mel_bins": MELS}, "resample_rate": 16000, **dataset},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    state = {**module.state_dict(), "projection.weight": torch.zeros(5, 12)}
    torch.save(state, folder / "avg_model.pt")
    return folder


def features(wave):
    """What wespeaker's program computes of 16-bit samples."""
    mat = kaldi.fbank(32768 * wave, num_mel_bins=MELS, window_type="hamming", dither=0.0)
    return (mat - mat.mean(0))[None]


MODELS = {
    "ECAPA_TDNN_c512": lambda: published.ECAPA(512, MELS, 12, False, False),
    "ECAPA_TDNN_GLOB_c512": lambda: published.ECAPA(512, MELS, 12, True, True),
    "ResNet18": lambda: published.ResNet([2, 2, 2, 2], False, MELS, 12),
    "ResNet50": lambda: published.ResNet([3, 4, 6, 3], True, MELS, 12),
}


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_the_published_network(name, tmp_path):
    torch.manual_seed(0)
    module = MODELS[name]()
    settle(module)
    module.eval()
    arguments = {"emb_bn": True} if name == "ECAPA_TDNN_GLOB_c512" else {}
    model = Model.load(write(tmp_path / "model", name, module, arguments))
    waves = noises(2, 8000)
    with torch.no_grad():
        for wave in (waves[:1], waves[1:, :5000]):
            want = module(features(wave))
            torch.testing.assert_close(model(wave), want, atol=1e-4, rtol=1e-3)
        together = model(waves, torch.tensor([8000, 5000]))
        torch.testing.assert_close(together[1:], want, atol=1e-4, rtol=1e-3)


def test_campplus_has_our_names(tmp_path):
    torch.manual_seed(0)
    encoder = CAMPPlus(MELS, embedding_dim=12, added_variance=1e-7)
    settle(encoder)
    model = Model.load(write(tmp_path / "model", "CAMPPlus", encoder, {}))
    wave = noises(1, 8000)
    with torch.no_grad():
        want = encoder.eval()(features(wave))
        torch.testing.assert_close(model(wave), want, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "name, arguments, dataset, reason",
    [
        ("Whisper", {}, {}, "known: ECAPA"),
        ("ResNet18", {"two_emb_layer": True}, {}, "two_emb_layer"),
        ("ResNet18", {"pooling_func": "MQMHASTP"}, {}, "pooling_func"),
        ("ResNet18", {"embed_dim": 13}, {}, "does not fit"),
        ("ResNet18", {"embed_dim": "many"}, {}, "embedding_dim"),
        ("ResNet34", {}, {}, "does not fit"),
        ("ResNet18", {}, {"frontend": "s3prl"}, "front end"),
        ("ResNet18", {}, {"cmvn_args": {"norm_var": True}}, "norm_var"),
        ("ResNet18", {}, {"fbank_args": [1]}, "damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, arguments, dataset, reason, tmp_path):
    module = published.ResNet([2, 2, 2, 2], False, MELS, 12, width=8)
    with pytest.raises(UserError, match=reason) as error:
        Model.load(write(tmp_path / "model", name, module, arguments, **dataset))
    assert "\n" not in str(error.value)


def test_torchscript_of_its_runtime_is_not_run(tmp_path):
    (tmp_path / "config.yaml").write_text("model: ResNet34\n")
    (tmp_path / "final.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="not run"):
        Model.load(tmp_path)
