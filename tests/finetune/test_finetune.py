"""Fine-tuning: finds what is there with unseen speakers, chance on shuffled labels, no leak, the
command.
"""

import json
import re

import numpy as np
import pytest
import torch
from builders import ENCODERS, RATE, make_model, write_audio

from speechssl.cli import main
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.embed import Embedder
from speechssl.errors import UserError
from speechssl.evaluation.classification.classify import evaluate
from speechssl.finetune import Classifier, FinetuneSettings, draw, finetune

CLASSES = {"low": 500.0, "middle": 1000.0, "high": 2000.0}
QUICK = FinetuneSettings(affine_steps=60, epochs=2, lr=1e-3, batch_size=8, seconds=0.3)


def make(kind="ecapa"):
    return make_model(kind, normalise="level")


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Six speakers with a voice (a tone of their own) say three classes (another tone) four times
    each.
    """
    folder, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    utterances, labels, groups = [], {}, {}
    for speaker in range(6):
        for name, hertz in CLASSES.items():
            for take in range(4):
                seconds = float(rng.uniform(0.25, 0.5))
                time = np.arange(round(seconds * RATE)) / RATE
                wave = 0.1 * np.sin(2 * np.pi * hertz * rng.uniform(0.95, 1.05) * time)
                wave += 0.05 * np.sin(2 * np.pi * (3000 + 500 * speaker) * time)
                wave += 0.01 * rng.standard_normal(len(time))
                utterance = f"s{speaker}-{name}-{take}"
                write_audio(folder / f"{utterance}.wav", wave)
                utterances.append(
                    Utterance(utterance, str(folder / f"{utterance}.wav"), seconds=seconds)
                )
                labels[utterance], groups[utterance] = name, f"s{speaker}"
    return utterances, labels, groups


def kinds():
    """Every encoder; the quickest ones by default."""
    quick = ("ecapa", "xvector")
    return [
        kind if kind in quick else pytest.param(kind, marks=pytest.mark.slow) for kind in ENCODERS
    ]


@pytest.mark.parametrize("kind", kinds())
def test_what_is_there_is_found_with_speakers_unseen(tones, kind):
    model = make(kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = finetune(model, *tones, folds=3, fractions=(0.1, 1.0), settings=QUICK, replicates=20)
    rows = {(row["fraction"], row["step"]): row for row in run.results["curve"]}
    assert rows[1.0, "all"]["macro_f1"] > 0.9
    assert rows[1.0, "affine"]["labels"] == 48 and rows[0.1, "affine"]["labels"] == 6
    assert rows[1.0, "all"]["macro_f1"] == run.results["macro_f1"]
    assert rows[1.0, "all"]["macro_f1"] >= rows[0.1, "all"]["macro_f1"] - 0.05
    assert run.results["labels_used"] == ["fine-tuning"] and run.results["unreadable"] == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_shuffled_labels_give_chance_within_the_interval(tones):
    utterances, labels, groups = tones
    turn = np.random.default_rng(3).permutation(list(labels.values())).tolist()
    wrong = dict(zip(labels, turn, strict=True))
    run = finetune(
        make(), utterances, wrong, groups, folds=3, fractions=[1.0], settings=QUICK, replicates=200
    )
    low, high = run.results["uar_interval"]
    assert low <= 1 / 3 <= high


def test_the_folds_are_the_probes_and_the_seed_decides(tones):
    settings = FinetuneSettings(affine_steps=10, epochs=0)
    first, again = (
        finetune(make(), *tones, folds=3, fractions=[1.0], settings=settings, replicates=0)
        for _ in range(2)
    )
    assert first.predicted.tolist() == again.predicted.tolist()
    assert [row["step"] for row in first.results["curve"]] == ["affine"]
    utterances, labels, groups = tones
    ids = np.array([u.id for u in utterances])
    probe = evaluate(
        ids, np.random.default_rng(0).normal(size=(72, 3)), labels, groups, folds=3, replicates=0
    )
    assert probe.folds == first.folds
    other = finetune(
        make(), *tones, folds=probe.folds, fractions=[1.0], settings=settings, replicates=0
    )
    assert other.predicted.tolist() == first.predicted.tolist()


def test_a_speaker_in_two_folds_is_refused_and_so_are_other_mistakes(tones):
    utterances, labels, groups = tones
    folds = {u.id: f"f{number % 2}" for number, u in enumerate(utterances)}
    with pytest.raises(UserError, match="group s0 is in folds f0, f1"):
        finetune(make(), utterances, labels, groups, folds=folds)
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        finetune(make(), utterances, labels, groups, fractions=[0.0])
    with pytest.raises(UserError, match="no utterance has a label"):
        finetune(make(), utterances, {"x": "y"}, groups)


def test_the_share_of_labels_is_nested_and_never_without_a_class():
    target = np.repeat([0, 1, 2], [50, 20, 3])
    rows = np.flatnonzero(np.arange(73) % 7 > 0)
    few, some, every = (draw(rows, target, share, [0, 1]) for share in (0.01, 0.2, 1.0))
    assert sorted(target[few]) == [0, 1, 2] and set(few) <= set(some) and set(some) <= set(rows)
    assert every.tolist() == rows.tolist()
    assert draw(rows, target, 0.2, [0, 2]).tolist() != some.tolist()


@torch.no_grad()
@pytest.mark.parametrize("kind", ENCODERS)
def test_the_classifier_on_what_pooling_gave_is_the_classifier_on_the_features(kind):
    model, wave = make(kind), np.random.default_rng(0).standard_normal(8000).astype("f4")
    classifier = Classifier(model.encoder, torch.randn(9, 12), 3).eval()
    classifier.output.weight.normal_()
    pooled = torch.from_numpy(Embedder(model, layer="pooled").embed(wave, RATE))[None]
    embedding = torch.from_numpy(Embedder(model).embed(wave, RATE))[None]
    torch.testing.assert_close(
        classifier.forward_pooled(pooled), classifier.logits(embedding), atol=1e-4, rtol=1e-4
    )


def test_the_first_step_moves_the_affine_layers_alone(tones, monkeypatch):
    from speechssl.finetune import training as module

    seen = []
    original = module.Trainer.train_affine

    def spy(self, classifier, *rest):
        before = {k: v.clone() for k, v in classifier.state_dict().items()}
        original(self, classifier, *rest)
        seen.append(
            {k for k, v in classifier.state_dict().items() if not torch.equal(before[k], v)}
        )

    monkeypatch.setattr(module.Trainer, "train_affine", spy)
    finetune(
        make(),
        *tones,
        folds=2,
        fractions=[1.0],
        settings=FinetuneSettings(affine_steps=5, epochs=0),
        replicates=0,
    )
    moved = {key.removeprefix("encoder.").partition(".")[0] for key in set().union(*seen)}
    assert moved == {"asp_bn", "fc", "output"}
    assert not any("running" in key for key in set().union(*seen))  # BatchNorm keeps its statistics


def test_the_command_writes_what_others_read(tones, tmp_path, capsys):
    utterances, labels, groups = tones
    write_manifest(
        Manifest(list(utterances), {"spk": groups, "emotion": labels}), tmp_path / "data"
    )
    make().save(tmp_path / "model")
    data, out = str(tmp_path / "data"), str(tmp_path / "out")
    words = [
        "finetune",
        str(tmp_path / "model"),
        data,
        "--labels",
        f"{data}/utt2emotion",
        "--groups",
        data,
    ]
    words += ["--folds", "2", "--fractions", "0.1", "1", "--affine-steps", "20", "--epochs", "1"]
    assert main([*words, "--device", "cpu", "--replicates", "20", "--out", out]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("affine") == 2 and "100% of labels" in shown.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"micro_f1", "macro_f1", "uar", "macro_f1_interval", "folds", "curve"} <= set(results)
    assert (tmp_path / "out" / "confusion.png").exists() and (
        tmp_path / "out" / "utt2fold"
    ).exists()


@pytest.fixture
def clinic(tones, tmp_path):
    """Words of a command: speakers with odd numbers are ill, and a subject is a speaker."""
    utterances, _, speakers = tones
    diagnosis = {
        name: "ad" if int(speaker[1:]) % 2 else "control" for name, speaker in speakers.items()
    }
    tables = {"spk": speakers, "subject": speakers, "diagnosis": diagnosis}
    write_manifest(Manifest(list(utterances), tables), tmp_path / "data")
    make().save(tmp_path / "model")
    data = str(tmp_path / "data")
    words = ["finetune", str(tmp_path / "model"), data, "--labels", f"{data}/utt2diagnosis"]
    words += ["--groups", f"{data}/utt2spk", "--subjects", f"{data}/utt2subject", "--folds", "2"]
    return [*words, "--fractions", "1", "--affine-steps", "2", "--epochs", "0"]


def test_a_diagnosis_is_counted_by_subject(clinic, tmp_path, capsys):
    assert main([*clinic, "--replicates", "20", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["utterances"] == 72 and results["subjects"]["count"] == 6
    assert "subjects      6" in capsys.readouterr().out
    lines = (tmp_path / "out" / "subject_predictions").read_text().splitlines()
    right = sum(line.split()[1] == line.split()[2] for line in lines)
    assert len(lines) == 6 and right / 6 == pytest.approx(results["subjects"]["micro_f1"])


@pytest.mark.parametrize(
    ("table", "value", "message"),
    [
        ("utt2subject", "", "1 utterances have no subject, first 's0-high-0'"),
        ("utt2subject", "s2", "s2 is in groups s0 and s2 .* the same file as --groups"),
        ("utt2diagnosis", "ad", "s0 has utterances of ad and of control"),
    ],
)
def test_subjects_that_do_not_fit_are_refused_before_anything_is_trained(
    clinic, tmp_path, monkeypatch, capsys, table, value, message
):
    def begins(*_, **__):
        raise AssertionError("training has begun")

    monkeypatch.setattr("speechssl.finetune.finetune", begins)
    path = tmp_path / "data" / table
    rows = dict(line.split() for line in path.read_text().splitlines())
    rows["s0-high-0"] = value
    path.write_text("".join(f"{name} {v}\n" for name, v in rows.items() if v))
    assert main(clinic) == 2
    assert re.search(message, capsys.readouterr().err)
