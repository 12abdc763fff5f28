"""Layers and networks: a padded batch equals its utterances alone, statistics by hand, the
command.
"""

import numpy as np
import pytest
import scipy.fft
import torch
from builders import ECAPA, RATE, RESNET, make_model, noise, write_audio

import speechssl
from speechssl import parts
from speechssl.cli import main
from speechssl.data.vectors.files import read_vectors
from speechssl.embed import Embedder, embed_to_file
from speechssl.embed.layers import encode_layer, layer_names
from speechssl.embed.networks import load_model
from speechssl.errors import UserError

ENCODERS = {
    "ecapa": ECAPA,
    "plain": {**ECAPA, "pooling": "statistics"},
    "resnet": RESNET,
}
NAMES = {
    "ecapa": [
        "features",
        "block0",
        "block1",
        "block2",
        "block3",
        "mfa",
        "pooled",
        "asp_bn",
        "embedding",
    ],
    "resnet": [
        *["features", "layer1", "layer2", "layer3", "layer4"],
        *["pooled", "norm_stats", "fc_embed", "embedding"],
    ],
}


def settled(kind):
    return make_model(ENCODERS[kind])


@pytest.mark.parametrize("kind", ["ecapa", "resnet"])
def test_layers_are_named_from_the_first_to_the_embedding(kind):
    assert layer_names(settled(kind).encoder) == NAMES[kind]


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_layer_of_a_padded_batch_equals_each_utterance_alone(kind):
    model, lengths = settled(kind), torch.tensor([16000, 5000, 11111])
    waves = 0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(1))
    for layer in layer_names(model.encoder):
        embedder = Embedder(model, layer=layer)
        together = embedder.encode_batch(waves, lengths)
        assert together.shape == (3, embedder.dim)
        for row, length in enumerate(lengths):
            alone = embedder.encode_batch(waves[row, :length])[0]
            size = float(alone.abs().max())
            assert float((together[row] - alone).abs().max()) < 1e-5 * max(1.0, size), layer


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "after"), [("ecapa", ("asp_bn", "fc")), ("plain", ("asp_bn", "fc"))]
)
def test_the_affine_layers_on_the_pooled_statistics_give_the_embedding(kind, after):
    encoder, x = settled(kind).encoder, torch.randn(2, 50, 24)
    pooled = encode_layer(encoder, x, None, "pooled")
    first, last = (getattr(encoder, name) for name in after)
    torch.testing.assert_close(first(pooled), encode_layer(encoder, x, None, after[0]))
    torch.testing.assert_close(last(first(pooled)), encoder(x))


@torch.no_grad()
def test_statistics_are_the_mean_and_deviation_over_valid_frames():
    encoder, x = settled("ecapa").encoder, torch.randn(1, 50, 24)
    found = encode_layer(encoder, x, torch.tensor([30]), "features")[0].numpy()
    valid = x[0, :30].numpy()
    np.testing.assert_allclose(found, np.r_[valid.mean(0), valid.std(0)], atol=1e-6)
    kept = []
    hook = encoder.frame_layers()["block2"].register_forward_hook(
        lambda _m, _i, output: kept.append(output)
    )
    encoder(x)
    hook.remove()
    frames = kept[0][0].numpy()
    found = encode_layer(encoder, x, None, "block2")[0].numpy()
    np.testing.assert_allclose(found, np.r_[frames.mean(0), frames.std(0)], atol=1e-5)


@torch.no_grad()
def test_the_last_stage_of_a_resnet_has_the_channels_and_bands_that_it_pools():
    encoder = settled("resnet").encoder
    assert encode_layer(encoder, torch.randn(1, 40, 24), None, "layer4").shape == (1, 2 * 64 * 3)


def test_looking_at_a_layer_leaves_no_hook_behind_and_an_unknown_one_is_named():
    encoder = settled("ecapa").encoder
    encode_layer(encoder, torch.randn(1, 40, 24), None, "mfa")
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in encoder.modules()
    )
    with pytest.raises(
        UserError, match="no layer 'block9' in this encoder; it has features, block0"
    ):
        encode_layer(encoder, torch.randn(1, 40, 24), None, "block9")


def test_mfcc_statistics_are_those_of_an_orthonormal_cosine_transform():
    embedder = speechssl.load("mfcc")
    wave = 0.1 * np.random.default_rng(0).standard_normal(12345).astype("f4")
    mels = embedder.model.features(torch.from_numpy(wave)[None])[0][0].numpy()
    cepstra = scipy.fft.dct(mels, norm="ortho")[:, :20]
    expected = np.r_[cepstra.mean(0), cepstra.std(0)]
    np.testing.assert_allclose(embedder.embed(wave, 16000), expected, rtol=1e-4, atol=1e-4)
    louder = embedder.embed(2 * wave, 16000) - embedder.embed(wave, 16000)
    assert louder[0] == pytest.approx(np.sqrt(40) * np.log(4), rel=0.01)  # c0 is the level
    assert np.abs(louder[1:]).max() < 0.05


@pytest.fixture
def run(tmp_path):
    """A run folder whose student, teacher and saved model differ; and a folder of audio."""
    from speechssl import config

    models = {name: settled("ecapa") for name in ("student", "teacher")}
    with torch.no_grad():
        models["student"].encoder.fc.conv.bias += 1.0
    section = {"name": "dino", "hidden": 8, "bottleneck": 4, "prototypes": 3}
    state = parts.build("methods", section, settled("ecapa").encoder).state_dict()
    for name, model in models.items():
        for key, value in model.encoder.state_dict().items():
            state[f"{name}.encoder.{key}"] = value
    folder = tmp_path / "run"
    models["teacher"].save(folder / "model")
    written = {**models["teacher"].settings, "method": section}
    config.write(written, folder / "config.yaml")
    torch.save({"step": 7, "method": {**state, "centre": torch.zeros(3)}}, folder / "last.pt")
    for number in range(3):
        write_audio(tmp_path / "audio" / f"{number}.wav", noise(9000 / RATE, seed=number))
    return folder


def test_student_and_teacher_come_out_of_the_last_state(run):
    x = torch.randn(2, 40, 24)
    student, teacher, saved = (
        load_model(run, "student"),
        load_model(run, "teacher"),
        load_model(run),
    )
    with torch.no_grad():
        torch.testing.assert_close(teacher.encoder(x), saved.encoder(x))
        torch.testing.assert_close(student.encoder(x), teacher.encoder(x) + 1.0)
    assert student.about == {"method": "dino", "step": 7, "network": "student"}
    with pytest.raises(
        UserError, match="no network 'centre' in the run .*; it has student, teacher"
    ):
        load_model(run, "centre")
    with pytest.raises(UserError, match="needs a run folder with last.pt"):
        load_model(run / "model", "student")


def test_a_state_without_the_networks_of_its_configuration_is_refused(run):
    state = torch.load(run / "last.pt", weights_only=True)
    state["method"] = {k.replace("teacher", "guest"): v for k, v in state["method"].items()}
    torch.save(state, run / "last.pt")
    with pytest.raises(UserError, match="last.pt does not hold the network teacher.encoder"):
        load_model(run, "student")


def save_run(folder, method, switched=None):
    """A run of a method whose weights are all different; gives the trained method."""
    from speechssl import config

    model = settled("ecapa")
    section = {"name": method}
    trained = parts.build("methods", section, model.encoder).eval()
    trained.prepare(6, torch.arange(6) % 3 if trained.NEEDS_LABELS else None)
    with torch.no_grad():
        for number, parameter in enumerate(trained.parameters()):
            parameter += 1e-3 * number
    if switched is not None:
        trained.switched.fill_(switched)
    model.save(folder / "model")
    config.write({**model.settings, "method": section}, folder / "config.yaml")
    torch.save({"step": 1, "method": trained.state_dict()}, folder / "last.pt")
    return trained


@pytest.mark.parametrize("method", parts.names("methods"))
@torch.no_grad()
def test_every_network_of_every_method_can_be_named(tmp_path, method):
    networks = save_run(tmp_path, method).networks()
    x = torch.randn(2, 40, 24)
    for name, network in networks.items():
        torch.testing.assert_close(load_model(tmp_path, name).encoder(x), network(x))
    with pytest.raises(UserError, match=f"no network 'x' .*; it has {', '.join(networks)}$"):
        load_model(tmp_path, "x")


@torch.no_grad()
def test_a_method_with_one_network_has_a_student(tmp_path):
    trained = save_run(tmp_path, "simclr")
    x = torch.randn(2, 40, 24)
    torch.testing.assert_close(load_model(tmp_path, "student").encoder(x), trained.encoder(x))
    with pytest.raises(UserError, match="no network 'teacher' in the run .*; it has encoder"):
        load_model(tmp_path, "teacher")


@torch.no_grad()
def test_networks_that_depend_on_where_the_run_stands(tmp_path):
    """The two stages of C3-DINO: after the switch the first one's teacher has a name of its own."""
    trained = save_run(tmp_path, "c3_dino", switched=5)
    x = torch.randn(2, 40, 24)
    found = load_model(tmp_path, "moco.teacher").encoder(x)
    torch.testing.assert_close(found, trained.networks()["moco.teacher"](x))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_command_embeds_a_layer_and_a_network(run, tmp_path, jobs):
    audio, out = str(tmp_path / "audio"), str(tmp_path / "x.npz")
    words = ["embed", str(run), audio, "--out", out, "--network", "student", "--layer", "block3"]
    assert main([*words, "--jobs", jobs]) == 0
    ids, found = read_vectors(out)
    embedder = Embedder(load_model(run, "student"), layer="block3")
    expected = np.stack([embedder.embed(f"{audio}/{name}") for name in ids])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_command_refuses_an_unknown_layer_and_knows_mfcc(run, tmp_path, capsys):
    audio, out = str(tmp_path / "audio"), str(tmp_path / "x.npz")
    assert main(["embed", str(run), audio, "--out", out, "--layer", "list"]) == 2
    assert "it has features, block0" in capsys.readouterr().err
    assert main(["embed", "mfcc", audio, "--out", out]) == 0
    assert read_vectors(out)[1].shape == (3, 40)


@pytest.mark.slow
def test_mfcc_is_shared_among_processes(run, tmp_path):
    audio = [str(tmp_path / "audio")]
    embed_to_file("mfcc", audio, tmp_path / "one.npz")
    embed_to_file("mfcc", audio, tmp_path / "two.npz", jobs=2)
    one, two = (read_vectors(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert list(one[0]) == list(two[0])
    np.testing.assert_allclose(two[1], one[1], atol=1e-4)


def test_code_that_a_run_names_is_not_run_unless_it_is_allowed(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strange.py").write_text("from speechssl.methods.dino import PART as Method\n")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: dino", "name: strange:Method"))
    with pytest.raises(UserError, match="--allow-code strange"):
        load_model(run, "student")
    assert load_model(run, "student", allow_code=["strange"]).about["method"] == "strange:Method"
