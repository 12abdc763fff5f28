"""SpeechBrain's folders: its own EncoderClassifier beside ours, and files that lie."""

import pytest
import torch
from builders import noises, settle

import speechssl
from speechssl.errors import UserError
from speechssl.model import Model

HEAD = """\
pretrained_path: {folder}
n_mels: {mels}
sample_rate: 16000
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
    {context}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
classifier: !new:torch.nn.Identity
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""
ECAPA = """\
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    res2net_scale: 4
    se_channels: 8
    lin_neurons: 12
"""
XVECTOR = """\
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 5
    tdnn_channels: [16, 16, 16, 16, 24]
    tdnn_kernel_sizes: [5, 3, 3, 1, 1]
    tdnn_dilations: [1, 2, 3, 1, 1]
    lin_neurons: 12
"""
RESNET = """\
embedding_model: !new:speechbrain.lobes.models.ResNet.ResNet
    input_size: !ref <n_mels>
    channels: [8, 8, 16, 16]
    block_sizes: [1, 1, 1, 1]
    lin_neurons: 12
"""


# SpeechBrain is imported in functions only: its lazy modules break the collection of tests that use
# hypothesis.
def lobe(name, **arguments):
    """Build one of SpeechBrain's encoders."""
    module = pytest.importorskip(f"speechbrain.lobes.models.{name}")
    return getattr(module, name)(**arguments)


def ecapa():
    return lobe(
        "ECAPA_TDNN",
        input_size=24,
        lin_neurons=12,
        channels=[16, 16, 16, 16, 48],
        attention_channels=8,
        res2net_scale=4,
        se_channels=8,
    )


def xvector():
    return lobe("Xvector", in_channels=24, tdnn_channels=[16, 16, 16, 16, 24], lin_neurons=12)


def resnet():
    sizes = {"channels": [8, 8, 16, 16], "block_sizes": [1, 1, 1, 1], "lin_neurons": 12}
    return lobe("ResNet", input_size=24, **sizes)


MODELS = {"ecapa": (ECAPA, ecapa), "xvector": (XVECTOR, xvector), "resnet": (RESNET, resnet)}


def write(folder, name="ecapa", context="left_frames: 0\n    right_frames: 0", head=HEAD):
    """A folder in the published layout, with random weights made by SpeechBrain's own class."""
    folder.mkdir(exist_ok=True)
    text, make = MODELS[name]
    torch.manual_seed(0)
    module = make()
    settle(module)
    torch.save(module.state_dict(), folder / "embedding_model.ckpt")
    written = head.format(folder=folder, mels=24, context=context) + text
    (folder / "hyperparams.yaml").write_text(written)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_encode_batch(name, tmp_path):
    inference = pytest.importorskip("speechbrain.inference.classifiers")
    folder = write(tmp_path / "model", name)
    theirs = inference.EncoderClassifier.from_hparams(source=str(folder), savedir=str(folder))
    ours = Model.load(folder)
    waves = noises(2, 16000)
    with torch.no_grad():
        for wave in (waves, waves[:1, :7321]):
            want = theirs.encode_batch(wave).flatten(1)
            torch.testing.assert_close(ours(wave), want, atol=1e-4, rtol=1e-4)
    assert ours.settings["encoder"]["name"] == name


def test_it_is_saved_as_a_model_folder_of_ours(tmp_path):
    embedder = speechssl.load(write(tmp_path / "model"))
    embedder.save_pretrained(tmp_path / "ours")
    wave = noises(1, 8000)[0].numpy()
    again = speechssl.load(tmp_path / "ours")
    assert (embedder.embed(wave, 16000) == again.embed(wave, 16000)).all()


def test_nothing_that_the_file_names_is_run(tmp_path):
    folder = write(tmp_path / "model")
    proof = tmp_path / "proof"
    text = (folder / "hyperparams.yaml").read_text()
    evil = f"evil: !apply:os.system\n    command: touch {proof}\nnamed: !name:os.remove\n"
    (folder / "hyperparams.yaml").write_text(text + evil)
    Model.load(folder)
    assert not proof.exists()


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("ECAPA_TDNN.ECAPA_TDNN", "ECAPA_TDNN.Other", "which is not supported"),
        ("!ref <n_mels>", "!ref <n_mels> * 2", "no reference"),
        ("!ref <n_mels>", "!ref <nothing>", "no reference"),
        ("n_mels: 24", "n_mels: !ref <n_mels>", "circle"),
        ("std_norm: False", "std_norm: True", "std_norm"),
        ("norm_type: sentence", "norm_type: global", "norm_type"),
        ("left_frames: 0", "deltas: True", "deltas"),
        ("left_frames: 0", "unknown: 0", "unknown argument"),
        ("lin_neurons: 12", "lin_neurons: 13", "does not fit"),
        ("lin_neurons: 12", "lin_neurons: 900000000000", "does not fit"),
        ("channels: [16, 16, 16, 16, 48]", "channels: [16, 16, 16, 8, 48]", "must be equal"),
        ("channels: [16, 16, 16, 16, 48]", "channels: 5", "damaged"),
        ("n_mels: 24", "n_mels: 40000000", "n_mels"),
        ("classifier: !new:", "classifier: !!python/object/apply:", "a tag"),
        ("embedding_model: !new:", "other_model: !new:", "no speaker encoder"),
    ],
)
def test_files_that_do_not_fit_are_one_line(old, new, reason, tmp_path):
    folder = write(tmp_path / "model")
    text = (folder / "hyperparams.yaml").read_text()
    assert old in text
    (folder / "hyperparams.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=reason) as error:
        Model.load(folder)
    assert "\n" not in str(error.value)


def test_weights_that_are_a_program_are_refused(tmp_path):
    folder = write(tmp_path / "model")
    torch.save(torch.nn.Linear(2, 2), folder / "embedding_model.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        Model.load(folder)
