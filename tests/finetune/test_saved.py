"""A classifier that was saved predicts what it predicted, whoever's folder it is."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from speechssl.cli import main
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError
from speechssl.finetune import Classifier, SavedClassifier
from speechssl.finetune.predict import Predictions, by_subject
from speechssl.finetune.saved import load
from tests.builders import RATE, make_model, noise, read_json, write_audio

HERTZ = {"low": 500.0, "high": 2500.0}


def tone(hertz, seed):
    time = np.arange(round(0.3 * RATE)) / RATE
    return (0.2 * np.sin(2 * np.pi * hertz * time) + noise(0.3, seed=seed) / 10).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tones of two classes and four speakers as a Kaldi directory, a model, a saved classifier."""
    root = tmp_path_factory.mktemp("saved")
    data = root / "data"
    tables = {"wav.scp": [], "utt2spk": [], "utt2tone": []}
    for speaker in range(4):
        for take in range(4):
            name = list(HERTZ)[take % 2]
            utterance = f"s{speaker}-{take}"
            path = write_audio(
                root / "audio" / f"{utterance}.wav", tone(HERTZ[name], 9 * speaker + take)
            )
            tables["wav.scp"].append(f"{utterance} {path}\n")
            tables["utt2spk"].append(f"{utterance} s{speaker}\n")
            tables["utt2tone"].append(f"{utterance} {name}\n")
    data.mkdir()
    for name, lines in tables.items():
        (data / name).write_text("".join(lines))
    make_model(normalise="level").save(root / "model")
    command = ["finetune", str(root / "model"), str(data), "--labels", str(data / "utt2tone")]
    command += ["--groups", str(data / "utt2spk"), "--folds", "2", "--fractions", "1"]
    command += ["--affine-steps", "60", "--epochs", "1", "--lr", "1e-3", "--seconds", "0.3"]
    command += ["--batch-size", "8", "--replicates", "0", "--device", "cpu"]
    assert main([*command, "--save", str(root / "tones")]) == 0
    return root


def test_finetune_saves_what_predict_uses(folder, tmp_path, capsys):
    found = load(folder / "tones")
    assert found.labels == ["high", "low"] and found.about["trained_on"] == 16
    assert found.about["measured_by_folds"]["macro_f1"] > 0.8
    assert found.model.about["labels_used"] == "fine-tuning"
    for seed, (name, hertz) in enumerate(HERTZ.items()):
        write_audio(tmp_path / "new" / f"{name}.wav", tone(hertz, 100 + seed))
    (tmp_path / "new" / "broken.wav").write_bytes(b"RIFF")
    out = tmp_path / "tables" / "new.tsv"
    command = ["predict", str(folder / "tones"), str(tmp_path / "new"), "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "broken.wav" in said and "2 recordings classified, 1 left out" in said
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert rows[0] == ["recording", "label", "high", "low"]
    assert [row[:2] for row in rows[1:]] == [["high.wav", "high"], ["low.wav", "low"]]
    vector = Embedder.from_pretrained(folder / "tones").embed(tmp_path / "new" / "low.wav")
    state = load_file(folder / "tones" / "classifier.safetensors")
    standardised = (torch.from_numpy(vector) - state["mean"]) * state["scale"]
    logits = state["output.weight"] @ standardised + state["output.bias"]
    expected = logits.softmax(0).tolist()
    assert [float(value) for value in rows[2][2:]] == pytest.approx(expected, abs=1e-4)


def test_predict_subjects(folder, capsys):
    data = folder / "data"
    command = ["predict", str(folder / "tones"), str(data), "--subjects", str(data / "utt2spk")]
    assert main(command) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["subject", "recordings", "label", "high", "low"]
    assert [row[:2] for row in rows[1:]] == [[f"s{i}", "4"] for i in range(4)]


def test_subjects_have_the_mean_probabilities_of_their_recordings():
    found = Predictions(
        ["a", "b", "c"], ["x", "y"], np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), [1, 1, 1]
    )
    subjects = by_subject(found, {"a": "s", "b": "t", "c": "s"})
    assert subjects.ids == ["s", "t"] and subjects.counts == [2, 1]
    np.testing.assert_allclose(subjects.probabilities, [[0.65, 0.35], [0.2, 0.8]])
    with pytest.raises(UserError, match="no subject, first 'c'"):
        by_subject(found, {"a": "s", "b": "t"})


def test_the_test_folds_are_not_trained_on(folder, tmp_path):
    data = folder / "data"
    lines = (data / "utt2spk").read_text().splitlines()
    folds = [line.split()[0] + (" test\n" if line.endswith("s3") else " rest\n") for line in lines]
    (tmp_path / "folds").write_text("".join(folds))
    command = ["finetune", str(folder / "model"), str(data), "--labels", str(data / "utt2tone")]
    command += ["--groups", str(data / "utt2spk"), "--folds", str(tmp_path / "folds")]
    command += ["--test-folds", "test", "--fractions", "1", "--affine-steps", "2", "--epochs", "0"]
    save = str(tmp_path / "c")
    assert main([*command, "--replicates", "0", "--out", save, "--save", save]) == 0
    assert load(tmp_path / "c").about["trained_on"] == 12
    assert (tmp_path / "c" / "results.json").exists()


@pytest.fixture
def small(tmp_path):
    model = make_model()
    classifier = Classifier(model.encoder, torch.randn(5, model.dim), 2)
    SavedClassifier(model, classifier, ["a", "b"], {"trained_on": 5}).save(tmp_path / "c")
    assert load(tmp_path / "c").labels == ["a", "b"]
    return tmp_path / "c"


@pytest.mark.parametrize(
    "labels",
    [["a"], ["a", "b", "c"], ["a", "a"], "ab", None, [1, 2], ["a", ""], ["a", "b" * 999], []],
)
def test_labels_of_a_hostile_classifier_are_one_line(small, labels):
    about = read_json(small / "classifier.json")
    (small / "classifier.json").write_text(json.dumps({**about, "labels": labels}))
    with pytest.raises(UserError, match="fine-tune again") as raised:
        load(small)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": torch.zeros(3)},
        {"output.bias": torch.full((2,), float("nan"))},
        {"encoder.weight": torch.zeros(2)},
        {"scale": None},
    ],
)
def test_tensors_of_a_hostile_classifier_are_one_line(small, change):
    state = {**load_file(small / "classifier.safetensors"), **change}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, small / "classifier.safetensors")
    with pytest.raises(UserError, match="fine-tune again") as raised:
        load(small)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_classifier_is_one_line(folder, small, capsys):
    assert main(["predict", str(folder / "model"), str(folder / "data")]) == 2
    assert "finetune --save" in capsys.readouterr().err
    (small / "classifier.safetensors").write_bytes(b"\xff" * 64)
    assert main(["predict", str(small), str(folder / "data")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_labels_cannot_command_a_terminal(small, tmp_path, capsys):
    about = read_json(small / "classifier.json")
    (small / "classifier.json").write_text(json.dumps({**about, "labels": ["\x1b[2J\n", "=cmd()"]}))
    write_audio(tmp_path / "a.wav", noise(0.5))
    assert main(["predict", str(small), str(tmp_path / "a.wav")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and len(out.splitlines()) == 2
    assert r"\x1b[2J\n" in out
    assert "\t=cmd()" in out  # a program reads it; people open the file


def test_labels_cannot_command_a_spreadsheet(small, tmp_path):
    about = read_json(small / "classifier.json")
    (small / "classifier.json").write_text(json.dumps({**about, "labels": ["one", "=cmd()"]}))
    write_audio(tmp_path / "a.wav", noise(0.5))
    table = tmp_path / "out.tsv"
    assert main(["predict", str(small), str(tmp_path / "a.wav"), "--out", str(table)]) == 0
    assert "\t'=cmd()" in table.read_text() and "\t=" not in table.read_text()
