"""Every shipped configuration resolves, and says what its recipe promises."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from speechssl import conf, config, parts
from speechssl.federated.settings import read_settings
from speechssl.model import Model
from speechssl.pseudolabel import PseudoLabelSettings
from speechssl.train.optimizers import build_optimizer, schedule
from speechssl.train.settings import SECTIONS, HeldoutSettings, resolve

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("egs", "recipes", "speechssl")
    for path in (ROOT / folder).rglob("conf/*.yaml")
)
TRAINING = [path for path in FILES if "method" in yaml.safe_load((ROOT / path).read_text())]


def settings(path):
    """The settings of its training; a federated one is read with its rounds."""
    if "federated" in yaml.safe_load((ROOT / path).read_text()):
        return read_settings(str(ROOT / path))[0]
    return resolve(str(ROOT / path))


def test_there_are_configurations():
    assert TRAINING


@pytest.mark.parametrize("path", TRAINING, ids=str)
def test_it_resolves_and_its_encoder_can_be_built(path):
    resolved = settings(path)
    assert set(config.thaw(resolved)) == set(SECTIONS)
    model = Model(resolved.features, resolved.encoder)
    assert model.sample_rate == 16000 and model.dim >= 64


@pytest.mark.parametrize(
    "path", [path for path in FILES if "\n# heldout:" in (ROOT / path).read_text()], ids=str
)
def test_its_example_of_heldout_data_is_a_setting_that_can_be_switched_on(path, tmp_path):
    switched_on = tmp_path / "with.yaml"
    switched_on.write_text((ROOT / path).read_text().replace("\n# heldout:", "\nheldout:"))
    heldout = resolve(str(switched_on)).heldout
    assert heldout.data == "data/voxceleb/vox1" and heldout.trials is None
    assert settings(path).heldout.data is None


def test_the_readme_of_training_lists_the_settings_of_heldout_data_with_their_defaults():
    text = (ROOT / "speechssl/train/README.md").read_text()
    shown = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["heldout"]
    defaults = config.thaw(HeldoutSettings())
    assert shown.keys() == defaults.keys()
    assert {**shown, "data": None, "trials": None} == defaults


@pytest.mark.parametrize("path", TRAINING, ids=str)
def test_it_begins_with_the_command_that_runs_it(path):
    first = (ROOT / path).read_text().splitlines()[0]
    assert first.startswith("# ") and any(
        command in first for command in ("run.sh", "speechssl train", "speechssl federate")
    )


@pytest.mark.parametrize("path", TRAINING, ids=str)
def test_it_states_only_what_differs_from_the_defaults_or_pins_a_recipe(path):
    """Every key it writes is one that some constructor reads: resolving it changes nothing that it
    says.
    """
    written, resolved = yaml.safe_load((ROOT / path).read_text()), config.thaw(settings(path))
    written.pop("federated", None)
    for name, section in written.items():
        if isinstance(section, dict):
            for key, value in section.items():
                got = resolved[name][key]
                assert got == value or float(got) == float(value), f"{name}.{key}"


@pytest.mark.parametrize("path", TRAINING, ids=str)
def test_long_crops_come_first_and_short_ones_do_not_exceed_them(path):
    lengths = [crop["seconds"] for crop in settings(path).data.crops]
    assert lengths == sorted(lengths, reverse=True)


def test_cho2022_is_the_published_recipe():
    s = settings("recipes/voxceleb/conf/cho2022.yaml")
    crops = [(c["count"], c["seconds"]) for c in s.data.crops]
    assert crops == [(2, 4.0), (4, 2.0)]
    f = s.features
    assert (f["n_mels"], f["f_min"], f["f_max"], f["frame_length"], f["frame_shift"]) == (
        80,
        20,
        7600,
        0.025,
        0.010,
    )
    assert (f["normalise"], f["context"]) == ("sliding", 301)  # 150 on each side and the middle
    assert (f["window_type"], f["preemphasis"]) == ("povey", 0.97)
    assert (f["remove_dc_offset"], f["filter_scale"]) == ("utterance", "mel")
    assert s.data.min_seconds == 4 and s.data.replacement
    e = s.encoder
    assert (e["name"], e["width"], e["embedding_dim"], e["pooling"]) == (
        "resnet",
        16,
        256,
        "statistics",
    )
    assert tuple(e["blocks"]) == (3, 4, 6, 3)
    assert not e["pooled_norm"] and not e["embedding_norm"]
    m = s.method
    assert (m["prototypes"], m["layers"], m["hidden"], m["bottleneck"]) == (65536, 3, 2048, 256)
    assert (m["batchnorm"], m["norm_last_layer"], m["centring"]) == (False, True, "centre")
    assert m["input_batchnorm"] and m["head_batches"] == "by_length"
    assert (m["student_temperature"], m["teacher_temperature"], m["teacher_temperature_start"]) == (
        0.1,
        0.04,
        None,
    )
    assert (m["centre_momentum"], m["teacher_momentum"], m["teacher_momentum_end"]) == (
        0.9,
        0.996,
        1.0,
    )
    assert m["freeze_last_layer"] == 1.0
    for extra in (
        "koleo_weight",
        "mean_entropy_weight",
        "cosine_weight",
        "regulariser_end",
        "regularised",
    ):
        assert m[extra] == 0
    a = s.augment
    assert (a["noise_prob"], a["rir_prob"]) == (0.7, 0.45)
    assert [tuple(a[k]) for k in ("snr", "snr_music", "snr_speech")] == [(0, 18), (3, 18), (3, 18)]
    for extra in ("babble_prob", "filter_prob", "codec_prob"):
        assert a[extra] == 0
    assert (a["dither"], a["context"], a["exclusive"]) == (1.0, 0.5, False)
    o = s.optimizer
    assert o.name == "adam" and o.clip is None
    assert (o.beta1, o.beta2, o.amsgrad) == (0.9, 0.95, True)
    assert s.train.epochs == 70


def test_the_schedule_of_cho2022():
    s = settings("recipes/voxceleb/conf/cho2022.yaml")
    o = s.optimizer
    net = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(net, o)
    batch = s.train.batch_size * 2
    peak = 0.005 * batch / 256
    assert batch == 96 and peak == 0.001875
    for epoch, want in (
        (0, 0.0),
        (5, peak / 2),
        (10, peak),
        (40, (peak + 1e-6) / 2),
        (70, 1e-6),
    ):
        assert schedule(optimizer, o, epoch / 70, batch) == pytest.approx(want, rel=1e-4), epoch
    decay, plain = optimizer.param_groups
    assert (decay["weight_decay"], plain["weight_decay"]) == (1e-4, 0.0)
    assert math.isclose(o.warmup * 70, 10, rel_tol=1e-6)


@pytest.mark.parametrize(
    "path", [p for p in TRAINING if p.parts[0] == "egs" or p.stem.endswith("-small")], ids=str
)
def test_examples_need_nothing_but_the_audio_and_warm_up(path):
    s = settings(path)
    others = {"aam-small": "aam_softmax"} | dict.fromkeys(
        ("simclr-small", "contrastive-small"), "simclr"
    )
    assert s.method["name"] == others.get(path.stem, "dino") and s.train.init is None
    assert s.augment["noise"] is None and s.augment["rir"] is None
    assert 0 < s.optimizer.warmup < 0.5
    assert s.method.get("prototypes", 0) <= 4096


VOXCELEB = {
    # width, embedding, devices, crops, K, epochs, teacher temperature at the start, 20 % and the end
    "dino": (1024, 192, 8, [(2, 3.0), (4, 2.0)], 65536, 150, (0.04, 0.07, 0.07)),
    "ecapa512": (512, 192, 8, [(2, 3.0), (4, 2.0)], 65536, 150, (0.04, 0.07, 0.07)),
    "gpu24": (512, 192, 1, [(2, 3.0), (4, 2.0)], 65536, 60, (0.04, 0.07, 0.07)),
    "rdino": (1024, 512, 4, [(2, 4.0), (4, 2.0)], 65536, 70, (0.04, 0.04, 0.04)),
    "sdpn": (1024, 512, 4, [(1, 4.0), (4, 2.0)], 1024, 150, (0.025, 0.025, 0.025)),
}

SCHEDULES = {
    # warm-up in epochs, rate after it, lowest rate; wespeaker scales the lowest with the batch, too
    "dino": (20, 0.2 * 512 / 256, 5e-5 * 512 / 256),
    "ecapa512": (20, 0.2 * 512 / 256, 5e-5 * 512 / 256),
    "gpu24": (8, 0.2, 5e-5),
    "rdino": (10, 0.4 * 208 / 256, 1e-5),
    "sdpn": (10, 0.4 * 384 / 256, 1e-5),
}

AUGMENTATION = {
    # probabilities of noise and of a room, SNR of music and of speech, either noise or a room, dither
    "dino": (1 / 2, 1 / 2, (5, 15), (10, 30), True, 1.0),
    "ecapa512": (1 / 2, 1 / 2, (5, 15), (10, 30), True, 1.0),
    "gpu24": (1 / 2, 1 / 2, (5, 15), (10, 30), True, 1.0),
    # nothing in 1 of 6; one of them in 3 of 6, a quarter of these a room; both in 2 of 6
    "rdino": (3 / 6 * 3 / 4 + 2 / 6, 3 / 6 / 4 + 2 / 6, (5, 15), (13, 20), False, 0.0),
    "sdpn": (3 / 6 * 3 / 4 + 2 / 6, 3 / 6 / 4 + 2 / 6, (5, 15), (13, 20), False, 0.0),
}


class Tiny(torch.nn.Linear):
    embedding_dim = 4

    def __init__(self):
        super().__init__(4, 4)


@pytest.mark.parametrize("name", VOXCELEB)
def test_voxceleb_configurations_are_what_they_say(name):
    width, embedding, devices, crops, prototypes, epochs, temperatures = VOXCELEB[name]
    s = settings(conf.find(name) or f"recipes/voxceleb/conf/{name}.yaml")
    assert [(c["count"], c["seconds"]) for c in s.data.crops] == crops
    assert (s.encoder["name"], s.encoder["width"], s.encoder["embedding_dim"]) == (
        "ecapa",
        width,
        embedding,
    )
    assert s.method["prototypes"] == prototypes and s.method["batchnorm"]
    assert s.train.epochs == epochs
    o = s.optimizer
    optimizer = build_optimizer(torch.nn.Linear(2, 2), o)
    batch = s.train.batch_size * devices
    warmup_epochs, peak, lowest = SCHEDULES[name]
    fractions = (0.0, warmup_epochs / epochs / 2, warmup_epochs / epochs, 1.0)
    rates = [schedule(optimizer, o, fraction, batch) for fraction in fractions]
    assert rates == pytest.approx([0, peak / 2, peak, lowest], rel=1e-6)
    assert (o.name, o.clip, o.clip_mode, o.weight_decay) == ("sgd", 3.0, "tensor", 5e-5)
    method = parts.build("methods", {**s.method, "prototypes": 8, "hidden": 8}, Tiny())
    got = [method.teacher_temperature.at(fraction) for fraction in (0.0, 0.2, 1.0)]
    assert got == pytest.approx(temperatures)


@pytest.mark.parametrize("name", VOXCELEB)
def test_voxceleb_augmentation_and_features_are_the_programs(name):
    noise, room, music, speech, exclusive, dither = AUGMENTATION[name]
    s = settings(conf.find(name) or f"recipes/voxceleb/conf/{name}.yaml")
    a = s.augment
    assert (a["noise_prob"], a["rir_prob"]) == pytest.approx((noise, room), abs=1e-4)
    assert (tuple(a["snr"]), tuple(a["snr_music"]), tuple(a["snr_speech"])) == (
        (0, 15),
        music,
        speech,
    )
    assert (a["exclusive"], a["dither"], a["simulate_prob"]) == (exclusive, dither, 0.0)
    f = s.features
    if exclusive:  # wespeaker: torchaudio's kaldi.fbank with a Hamming window
        assert (f["window_type"], f["preemphasis"], f["f_min"], f["f_max"]) == (
            "hamming", 0.97, 20, 8000,
        )  # fmt: skip
        assert (f["remove_dc_offset"], f["filter_scale"], f["normalise"]) == (
            "frame",
            "mel",
            "mean",
        )
        assert s.encoder["embedding_norm"] and s.encoder["mfa_channels"] in (None, 1536)
    else:  # 3D-Speaker: torchaudio's MelSpectrogram and an InstanceNorm
        assert (f["window_type"], f["preemphasis"], f["f_min"], f["f_max"]) == ("hann", 0, 0, 8000)
        assert (f["filter_scale"], f["normalise"]) == ("hertz", "standard")
        assert not s.encoder["embedding_norm"]


def test_sdpn_gives_the_teacher_a_clean_crop_and_the_student_augmented_ones():
    s = settings("recipes/voxceleb/conf/sdpn.yaml")
    assert [(c["to"], c.get("augment", "default")) for c in s.data.crops][0] == (
        "teacher",
        "none",
    )
    assert s.data.crops[1]["to"] == "student"
    m = s.method
    assert (m["centring"], m["sinkhorn_iterations"], m["mean_entropy_weight"], m["koleo_weight"]) == (
        "sinkhorn", 3, 1.0, 0.1,
    )  # fmt: skip
    assert (m["sinkhorn_on"], m["target_prototypes"], m["koleo_over"]) == (
        "probabilities", "student", "all",
    )  # fmt: skip
    assert not m["prototype_decay"] and not m["prototype_clip"]
    assert m["freeze_last_layer"] == 0 and m["prototype_lr_scale"] == 4  # on 4 GPUs


def test_rdino_regularises_its_wide_layer():
    m = settings("recipes/voxceleb/conf/rdino.yaml").method
    assert (m["regularised"], m["variance_weight"]) == (8192, 10.0)
    assert m["head_batches"] == "by_length"
    assert m["covariance_weight"] == 8192 / 65536  # the program divides by the prototypes
    assert (m["regulariser_start"], m["regulariser_end"]) == (0.05, 0.2)
    method = parts.build(
        "methods", {**m, "prototypes": 8, "hidden": 8, "regularised": 8, "bottleneck": 4}, Tiny()
    )
    at_epochs = [method.regulariser_weight.at(epoch / 70) for epoch in range(12)]
    want = [0.05 + 0.15 * min(epoch, 9) / 9 for epoch in range(12)]  # linspace(.05, .2, 10)
    assert at_epochs == pytest.approx(want)


def test_pseudo_label_stages():
    first, last = (
        settings(f"recipes/voxceleb/conf/{name}.yaml") for name in ("aam", "large_margin")
    )
    for s in (first, last):
        assert (s.method["name"], s.method["subcentres"], s.method["scale"]) == (
            "aam_softmax",
            2,
            30.0,
        )
    m = first.method
    assert (m["margin"], m["intertop_margin"], m["gate"], m["confidence"]) == (
        0.2,
        0.1,
        "dynamic",
        0.5,
    )
    assert m["margin_warmup"] * first.train.epochs == pytest.approx(10)
    assert m["affine_first"] * first.train.epochs == pytest.approx(30)
    assert (
        last.method["margin"],
        last.data.crops[0]["seconds"],
        last.train.epochs,
    ) == (
        0.5,
        6.0,
        5,
    )


def test_the_rounds_name_files_that_are_there():
    file = ROOT / "recipes/voxceleb/conf/pseudolabel.yaml"
    values = config.check(PseudoLabelSettings, config.read(file), "pseudolabel")
    assert (ROOT / values["train"]).is_file() and (ROOT / values["large_margin"]).is_file()
    clusterer = parts.check("clustering", values["clusterer"], "clusterer")
    assert (clusterer["n_clusters"], clusterer["n_centroids"], clusterer["linkage"]) == (
        7500,
        10000,
        "ward",
    )
