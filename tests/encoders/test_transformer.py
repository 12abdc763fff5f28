"""Transformers on samples: MHFA by hand, the encoder's contract, and folders of transformers.

Without network: networks with random weights, made and saved by transformers itself.
"""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from builders import noise, noises

import speechssl
from speechssl import parts
from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.model import Model
from speechssl.nn.frames import Frames
from speechssl.nn.mhfa import MHFA
from speechssl.train.loop import train

SMALL = {
    "name": "transformer",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8, 8],
    "conv_stride": [5, 4, 4],
    "conv_kernel": [10, 4, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "heads": 3,
    "compression_dim": 4,
    "embedding_dim": 12,
}
TYPES = ["wavlm", "hubert", "wav2vec2"]
SIZES = ("name", "heads", "compression_dim", "embedding_dim")


def test_mhfa_is_the_equation_of_the_paper():
    torch.manual_seed(0)
    pooling = MHFA(layer_count=3, input_dim=5, heads=2, compression_dim=4)
    for p in pooling.parameters():
        torch.nn.init.normal_(p)
    layers = [torch.randn(2, 7, 5) for _ in range(3)]
    got = pooling(layers, Frames.of(layers[0], torch.tensor([7, 4]))).detach().numpy()
    w = {name: p.detach().double().numpy() for name, p in pooling.named_parameters()}
    for row, length in ((0, 7), (1, 4)):
        z = [layer[row, :length].double().numpy() for layer in layers]
        keys = np.zeros((length, 5))
        values = np.zeros((length, 5))
        for number in range(3):
            keys += np.exp(w["weights_k"][number]) / np.exp(w["weights_k"]).sum() * z[number]
            values += np.exp(w["weights_v"][number]) / np.exp(w["weights_v"]).sum() * z[number]
        keys = keys @ w["cmp_linear_k.weight"].T + w["cmp_linear_k.bias"]
        values = values @ w["cmp_linear_v.weight"].T + w["cmp_linear_v.bias"]
        pooled = []
        for head in range(2):
            scores = [
                keys[t] @ w["att_head.weight"][head] + w["att_head.bias"][head]
                for t in range(length)
            ]
            attention = np.exp(scores) / np.exp(scores).sum()
            pooled.append(sum(attention[t] * values[t] for t in range(length)))
        np.testing.assert_allclose(got[row], np.concatenate(pooled), rtol=1e-5)


def test_features_of_bands_are_refused_and_sizes_are_bounded():
    with pytest.raises(UserError, match="takes samples; set features"):
        parts.build("encoders", SMALL, 24)
    for changed in ({"hidden_size": 10**9}, {"conv_dim": []}, {"conv_stride": [5, 4]}):
        with pytest.raises(UserError, match="encoder"):
            parts.build("encoders", {**SMALL, **changed}, 1)


transformers = pytest.importorskip("transformers", reason="needs the extra transformers")


def make(model_type="wavlm", seed=0, **settings):
    torch.manual_seed(seed)
    return parts.build("encoders", {**SMALL, "model_type": model_type, **settings}, 1)


@pytest.mark.parametrize("model_type", TYPES)
def test_it_is_the_network_of_transformers(model_type):
    encoder = make(model_type).eval()
    waves = noises(2, 4000)
    with torch.no_grad():
        layers = encoder.backbone(waves, output_hidden_states=True).hidden_states
        assert len(layers) == 3
        want = encoder.linear(encoder.pooling(layers, Frames.of(layers[0], None)))
        torch.testing.assert_close(encoder(waves[:, :, None]), want)
        plain = make(model_type, pooling="statistics").eval()
        plain.backbone.load_state_dict(encoder.backbone.state_dict())
        mean = sum(layers) / 3
        want = torch.cat([mean.mean(1), mean.std(1, unbiased=False)], 1)
        torch.testing.assert_close(plain(waves[:, :, None]), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_contract_of_encoders(norm):
    encoder = make(feat_extract_norm=norm).eval()
    lengths = torch.tensor([4000, 900, 4000, 50])
    x = noises(4, 4000)[:, :, None]
    for row, length in enumerate(lengths):
        x[row, length:] = 1e3
    kept = x.clone()
    with torch.no_grad():
        together = encoder(x, lengths)
        assert together.shape == (4, encoder.embedding_dim) and together.dtype == torch.float32
        for row, length in enumerate(lengths):
            alone = encoder(x[row : row + 1, :length])[0]
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)
        layers = encoder.backbone(x[:1, :, 0], output_hidden_states=True).hidden_states
        pooled = encoder.pooling(layers, Frames.of(layers[0], None))
        torch.testing.assert_close(encoder.affine_layers()["linear"](pooled), encoder(x[:1]))
        again = make(seed=1, feat_extract_norm=norm).eval()
        assert not torch.allclose(again(x), encoder(x))
        again.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(again(x), encoder(x), atol=0, rtol=0)
    assert torch.equal(x, kept)
    same, other = make(seed=0, feat_extract_norm=norm), make(seed=1, feat_extract_norm=norm)
    assert torch.equal(same.linear.weight, encoder.linear.weight)
    assert not torch.equal(other.linear.weight, encoder.linear.weight)
    assert isinstance(copy.deepcopy(encoder), Encoder)


def test_frozen_or_trained():
    x = noises(2, 3000)[:, :, None]
    for frozen in (True, False):
        encoder = make(frozen=frozen).train()
        assert encoder.backbone.training is not frozen
        first, second = encoder(x), encoder(x)
        torch.testing.assert_close(first, second)  # nothing in it is random
        (first * torch.randn(first.shape)).sum().backward()
        for name, p in encoder.named_parameters():
            in_backbone = name.startswith("backbone.")
            assert p.requires_grad is not (frozen and in_backbone)
            assert (p.grad is None) is (frozen and in_backbone), name
            if p.grad is not None:
                assert p.grad.isfinite().all()
        moved = [n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.any()]
        assert "weights_k" in " ".join(moved) and "linear.weight" in moved
        assert any("feature_extractor" in name for name in moved) is not frozen


def folder_of(model_type, path, **changed):
    """A folder as transformers saves it, and its network."""
    settings = {k: v for k, v in SMALL.items() if k not in SIZES} | changed
    names = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2"}
    torch.manual_seed(3)
    configuration = getattr(transformers, f"{names[model_type]}Config")(**settings)
    network = getattr(transformers, f"{names[model_type]}Model")(configuration).eval()
    network.save_pretrained(path)
    return network


@pytest.mark.parametrize("model_type", TYPES)
def test_a_folder_of_transformers_embeds_as_its_network(model_type, tmp_path):
    network = folder_of(model_type, tmp_path / "hf")
    told = {"do_normalize": True, "sampling_rate": 8000}
    (tmp_path / "hf/preprocessor_config.json").write_text(json.dumps(told))
    embedder = speechssl.load(tmp_path / "hf", "cpu")
    assert embedder.sample_rate == 8000 and embedder.dim == 32
    wave = noise(1.0, rate=8000)
    normalised = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    with torch.no_grad():
        layers = network(torch.from_numpy(normalised)[None], output_hidden_states=True)
    mean = sum(layers.hidden_states)[0] / 3
    want = torch.cat([mean.mean(0), mean.std(0, unbiased=False)])
    np.testing.assert_allclose(embedder.embed(wave, 8000), want, atol=1e-4)
    embedder.save_pretrained(tmp_path / "ours")
    again = speechssl.load(tmp_path / "ours", "cpu").embed(wave, 8000)
    np.testing.assert_allclose(again, want, atol=1e-4)


def test_older_names_and_heads_of_other_tasks_are_read(tmp_path):
    from safetensors.torch import load_file, save_file

    folder_of("wavlm", tmp_path / "hf")
    want = speechssl.load(tmp_path / "hf", "cpu").embed(noise(0.5), 16000)
    file = tmp_path / "hf/model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        renamed[f"wavlm.{name}"] = tensor
    renamed["lm_head.weight"] = torch.zeros(3, 16)
    save_file(renamed, file)
    model = Model.load(tmp_path / "hf")
    assert "last layer" in model.about["labels_used"]
    got = speechssl.load(tmp_path / "hf", "cpu").embed(noise(0.5), 16000)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"hidden_size": 32}, "does not fit"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"hidden_act": "relu"}, "is not supported"),
        ({"add_adapter": True}, "is not supported"),
        ({"conv_dim": "many"}, "conv_dim"),
    ],
)
def test_a_folder_that_lies_is_one_line(changed, reason, tmp_path):
    folder_of("wavlm", tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["auto_map"] = {"AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(written | changed))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match=reason) as error:
        Model.load(tmp_path)
    assert "\n" not in str(error.value)


def test_pickles_are_not_read(tmp_path):
    folder_of("wavlm", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickles"):
        Model.load(tmp_path)


def test_training_starts_from_a_folder_and_a_frozen_transformer_stays(voices, tmp_path):
    folder_of("hubert", tmp_path / "hf")
    start = Model.load(tmp_path / "hf")
    settings = {
        "data": {"train": [str(voices / "train")], "crops": [{"count": 2, "seconds": 0.5}], "workers": 0},
        "augment": {"rir_prob": 0.0},
        "features": dict(start.settings["features"]),
        "encoder": {**start.settings["encoder"], **{k: SMALL[k] for k in SIZES}, "pooling": "mhfa"},
        "method": {"name": "simclr"},
        "train": {
            "init": str(tmp_path / "hf"), "steps": 2, "batch_size": 4, "threads": 1,
            "precision": "float32", "log_every": 1, "save_every": 2,
        },
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings))))
    train(str(tmp_path / "train.yaml"), out=tmp_path / "run", device="cpu")
    trained = Model.load(tmp_path / "run").encoder
    before = start.encoder.backbone.state_dict()
    for name, tensor in trained.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    untrained = Model.load(tmp_path / "run/untrained").encoder
    assert not torch.equal(trained.linear.weight, untrained.linear.weight)
