"""recipes/emotion/run.sh on generated voices in a released corpus' layout: the emotions must be
found.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.corpora import emodb
from speechssl.corpora.synthetic.corpus import voice_of
from speechssl.corpora.synthetic.voice import RATE, STYLES, speak
from speechssl.model import Model

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "emotion" / "run.sh"
LETTERS = {name: letter for letter, name in emodb.EMOTIONS.items()}
TEXTS = ("a01", "a02", "b01")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """EmoDB with eight of its speakers, whose voices are generated; a random encoder, twice."""
    folder = tmp_path_factory.mktemp("emotion")
    for number, speaker in enumerate(list(emodb.PUBLISHED["spk"])[:8]):
        for emotion in STYLES:
            for take, text in enumerate(TEXTS):
                rng = np.random.default_rng([number, take, *emotion.encode()])
                path = folder / "emodb" / "wav" / f"{speaker}{text}{LETTERS[emotion]}a.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, speak(voice_of(number, 0), emotion, 2.0, rng, 2.0), RATE)
    for seed, name in enumerate(("untrained", "other")):
        torch.manual_seed(seed)
        encoder = {
            "name": "ecapa",
            "width": 32,
            "scale": 4,
            "embedding_dim": 16,
            "attention_channels": 8,
            "se_channels": 8,
        }
        Model({"n_mels": 40, "normalise": "level"}, encoder).eval().save(folder / name)
    return folder


def command(world, *words):
    models = " ".join(f"{name}={world / name}" for name in ("untrained", "other"))
    call = ["bash", str(SCRIPT), "--corpora", f"emodb={world / 'emodb'}", "--models", models]
    call += [
        "--layers",
        "block3",
        "--exp",
        str(world / "exp"),
        "--device",
        "cpu",
        "--replicates",
        "50",
    ]
    call += ["--finetune", "--fractions 0.1 1 --affine-steps 100 --epochs 0", *words]
    return subprocess.run(call, capture_output=True, text=True)


def test_from_the_release_to_the_table_and_nothing_twice(world):
    done = command(world)
    assert done.returncode == 0, done.stderr[-3000:]
    data = json.loads((world / "exp" / "transfer.json").read_text())["emodb"]
    rows = {row["model"]: row for row in data["rows"]}
    assert set(rows) == {"mfcc", "untrained", "other"}
    for row in rows.values():
        assert (
            row["task"]["macro_f1"] > 0.3 and row["task"]["macro_f1_interval"][0] > 0.22
        )  # chance: 0.2
        assert len(row["task"]["folds"]) == 8 and row["task"]["utterances"] == 120
        assert row["speakers"]["micro_f1"] > 0.5
    assert set(rows["other"]["task"]["beside"]) == {"mfcc", "untrained"}
    curve = data["finetune"]["other"]
    assert [row["fraction"] for row in curve] == [0.1, 1.0] and curve[-1]["macro_f1"] > 0.22
    assert "| majority class |" in done.stdout and "over untrained" in done.stdout
    assert (world / "exp/probe/emodb/other/block3/confusion.png").exists()
    again = command(world)
    assert (
        again.returncode == 0
        and "[stage 3]" not in again.stderr
        and "[stage 4]" not in again.stderr
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--corpora", "emodb"], "give NAME=FOLDER"),
        (["--models", "x=/nowhere"], "no such folder"),
        (["--corpus", "x"], "run.sh --corpora"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(world, given, said):
    done = command(world, *given)
    assert done.returncode == 2 and said in done.stderr
