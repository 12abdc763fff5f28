"""egs/real/run.sh and egs/quickstart/run.sh in miniature: the unmodified scripts, stage by
stage.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.corpora.synthetic import corpus

ROOT = Path(__file__).parents[2]
TINY = """
data: {train: [x], crops: [{count: 2, seconds: 0.5}], workers: 0}
features: {n_mels: 24}
encoder: {name: ecapa, width: 16, scale: 2, embedding_dim: 16}
method: METHOD
train: {steps: 4, batch_size: 4, precision: float32, save_every: 2, log_every: 1}
"""
WARM = "{name: simclr, hidden: 0}"
DINO = "{name: dino, prototypes: 8, layers: 1, bottleneck: 8}"


def run(script, *words):
    done = subprocess.run(
        ["bash", str(ROOT / "egs" / script / "run.sh"), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def speech(tmp_path):
    """A folder with a training set and an evaluation set with trials."""
    rng = np.random.default_rng(0)
    for name, count in (("mine", 6), ("test", 6)):
        folder = tmp_path / "speech" / name
        folder.mkdir(parents=True)
        for i in range(count):
            soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(16000 + 1000 * i), 16000)
    rows = "".join(f"{i}.wav\ts{i % 2}\n" for i in range(6))
    (tmp_path / "speech" / "test" / "utterances.tsv").write_text("path\tspeaker\n" + rows)
    trials = [(int(a % 2 == b % 2), a, b) for a in range(6) for b in range(a)]
    lines = "".join(f"{t} {a}.wav {b}.wav\n" for t, a, b in trials)
    (tmp_path / "speech" / "test" / "trials").write_text(lines)
    (tmp_path / "warm.yaml").write_text(TINY.replace("METHOD", WARM))
    (tmp_path / "dino.yaml").write_text(TINY.replace("METHOD", DINO))
    return tmp_path


def words(speech, warm="warm.yaml"):
    warm = str(speech / warm) if warm != "none" else warm
    return [
        "--data", str(speech / "speech"), "--exp", str(speech / "exp"), "--train", "mine", "--eval", "test",
        "--config", str(speech / "dino.yaml"), "--warm-up", warm, "--at", "2",
    ]  # fmt: skip


def test_real_speech_from_folders_to_the_table_and_on(speech):
    done = run("real", *words(speech))
    results = json.loads((speech / "exp" / "results.json").read_text())
    rows = ["untrained", "warm-up", "step-2", "trained"]
    assert set(results["eer"]) == {*rows, *(f"{row}-whitened" for row in rows)}
    assert all(0 <= row["test"] <= 100 for row in results["eer"].values())
    assert "trained-whitened" in done.stdout
    assert {"train-warm-up", "train-dino"} <= set(results["seconds_per_stage"])
    begun = (speech / "exp" / "dino" / "config.yaml").read_text()
    assert "warm-up/model" in begun
    scoring = json.loads((speech / "exp/eval/trained-whitened/test/results.json").read_text())[
        "scoring"
    ]
    assert "whitened" in scoring
    weights = (speech / "exp" / "dino" / "model" / "weights.safetensors").read_bytes()
    run("real", *words(speech), "--stage", "2", "--stop-stage", "2")  # goes on with what is there
    assert (speech / "exp" / "dino" / "model" / "weights.safetensors").read_bytes() == weights


def test_real_speech_without_a_warm_up(speech):
    run("real", *words(speech, "none"), "train.steps=2")
    results = json.loads((speech / "exp" / "results.json").read_text())
    assert "warm-up" not in results["eer"] and "trained" in results["eer"]


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--data", "/nowhere"], "is not a folder"), (["--dat", "x"], "run.sh --data")],
)
def test_a_mistake_in_the_command_is_told(given, said):
    script = str(ROOT / "egs" / "real" / "run.sh")
    done = subprocess.run(["bash", script, *given], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr


def test_the_quickstart_from_its_second_stage(tmp_path):
    corpus.prepare(
        str(tmp_path / "data" / "audio"),
        str(tmp_path / "data"),
        speakers=12,
        evaluation_speakers=4,
        utterances=6,
    )
    small = [
        "train.steps=2",
        "train.batch_size=8",
        "encoder.width=16",
        "method.hidden=16",
        "train.save_every=2",
    ]
    exp = tmp_path / "exp"
    run("quickstart", "--stage", "2", "--data", str(tmp_path / "data"), "--exp", str(exp), *small)
    results = json.loads((exp / "results.json").read_text())
    assert 0 <= results["eer_trained"] <= 100 and 0 <= results["eer_untrained"] <= 100
    assert results["seconds_per_stage"]["train"] > 0
    assert (exp / "eval" / "trained" / "generated" / "det.png").exists()
