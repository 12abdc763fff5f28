"""recipes/emotion/run.sh on generated voices in a released corpus' layout: the emotions must be
found.
"""

import sys

import builders
import numpy as np
import pytest
from builders import make_model, read_json, run_script, write_audio

from speechssl.corpora import emodb
from speechssl.corpora.synthetic.corpus import voice_of
from speechssl.corpora.synthetic.source import SAMPLE_RATE
from speechssl.corpora.synthetic.speech import speak
from speechssl.corpora.synthetic.voice import STYLES

SCRIPT = "recipes/emotion/run.sh"
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
                write_audio(path, speak(voice_of(number, 0), emotion, 2.0, rng, 2.0), SAMPLE_RATE)
    for seed, name in enumerate(("untrained", "other")):
        make_model(seed=seed, n_mels=40, normalise="level").save(folder / name)
    return folder


def run(world, *words):
    """The script on the corpus and both encoders; `words` win."""
    models = " ".join(f"{name}={world / name}" for name in ("untrained", "other"))
    given = ["--corpora", f"emodb={world / 'emodb'}", "--models", models, "--layers", "block3"]
    given += ["--exp", world / "exp", "--device", "cpu", "--replicates", "50"]
    given += ["--finetune", "--fractions 0.1 1 --affine-steps 100 --epochs 0"]
    return run_script(SCRIPT, *given, *words)


def test_the_release_is_prepared_once(world):
    words = ["--exp", world / "prepared", "--stop-stage", "1"]
    done = run(world, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    emotions = (world / "prepared/data/emodb/utt2emotion").read_text().split()[1::2]
    assert len(emotions) == 120 and set(emotions) == set(STYLES)
    again = run(world, *words)
    assert again.returncode == 0 and "[stage 1]" in done.stderr
    assert "[stage 1]" not in again.stderr


@pytest.mark.slow  # sixteen commands, a minute of a core
def test_from_the_release_to_the_table_and_nothing_twice(world):
    done = run(world)
    assert done.returncode == 0, done.stderr[-3000:]
    data = read_json(world / "exp" / "transfer.json")["emodb"]
    rows = {row["model"]: row for row in data["rows"]}
    assert set(rows) == {"mfcc", "functionals", "untrained", "other"}
    for row in rows.values():
        assert (
            row["task"]["macro_f1"] > 0.3 and row["task"]["macro_f1_interval"][0] > 0.22
        )  # chance: 0.2
        assert len(row["task"]["folds"]) == 8 and row["task"]["utterances"] == 120
        assert row["speakers"]["micro_f1"] > 0.5
    assert set(rows["other"]["task"]["beside"]) == {"mfcc", "functionals", "untrained"}
    curve = data["finetune"]["other"]
    assert [row["fraction"] for row in curve] == [0.1, 1.0] and curve[-1]["macro_f1"] > 0.22
    assert "| majority class |" in done.stdout and "over untrained" in done.stdout
    assert (world / "exp/probe/emodb/other/block3/confusion.png").exists()
    again = run(world)
    assert (
        again.returncode == 0
        and "[stage 3]" not in again.stderr
        and "[stage 4]" not in again.stderr
    )


def test_folders_may_have_spaces(tmp_path, monkeypatch):
    """What is handed to the commands, by stand-ins for them: official folds of a corpus in "my exp"."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "speechssl").write_text(f'#!/bin/sh\n(printf "<%s>" "$@"; echo) >>"{tmp_path}/log"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    data = tmp_path / "my exp" / "data" / "iemocap"
    data.mkdir(parents=True)
    for name in ("wav.scp", "utt2fold", "utt2spk", "utt2emotion"):
        (data / name).write_text("a b\n")
    words = ["--corpora", f"iemocap={tmp_path}", "--models", f"m={tmp_path}", "--layers", "x"]
    words += ["--exp", tmp_path / "my exp", "--stage", "3", "--stop-stage", "4"]
    words += ["--finetune", "--epochs 0"]
    monkeypatch.setitem(builders.ENVIRONMENT, "SPEECHSSL_PYTHON", str(tools / "python"))
    done = run_script(SCRIPT, *words)
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "log").read_text().splitlines()
    with_folds = [line for line in called if f"<--folds><{data}/utt2fold>" in line]
    assert len(with_folds) == 4  # the probes of two baselines and the model, and fine-tuning
    assert "<--epochs><0>" in with_folds[-1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--corpora", "emodb"], "give NAME=FOLDER"),
        (["--models", "x=/nowhere"], "no such folder"),
        (["--corpus", "x"], "run.sh --corpora"),
        (["--functionals", "praat"], "give librosa, opensmile or none"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(world, given, said):
    done = run(world, *given)
    assert done.returncode == 2 and said in done.stderr
